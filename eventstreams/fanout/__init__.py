"""Sends the events of one log to many clients.

The `LogFollower` reads the log into the `Tails`, which keep the newest frames in memory. A
`Subscription` is a `Position` and a loop that pulls; subscriptions with the same
`SubscriptionSpec` at the same position form a `Cohort`, which writes the same bytes to every
member. Cohorts that read the same partitions form a `CohortGroup`, which examines each event once
for all of them. The `Hub` ties these together. A slow client leaves its cohort and pulls alone,
from the tails or from `History`, until its position equals the cohort's again.

Easy to get wrong: a position moves past every event examined, sent or not.
"""
