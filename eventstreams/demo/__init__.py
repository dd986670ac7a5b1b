"""The demo feed: synthetic recent changes for a gateway that has no events yet.

`RecentChanges` generates events, and `DemoFeed` appends them at a steady rate.

Easy to get wrong: the feed appends to the log directly, so the intake does not validate its events.
"""
