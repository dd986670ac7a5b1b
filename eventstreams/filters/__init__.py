"""Selects events for clients, and parts of them: `filter`, `fields`, `sample`, `canary`.

`Selector` combines them. A filter is a CEL expression: `cel_text` splits it into tokens, Google's
runtime compiles it, `cel_tree` reads the compiled form, `cel_check` and `cel_cost` refuse what may
cost too much, and `cel` evaluates it. `Document` is the parsed event that all selectors share.

`requirements` derives from the compiled form what an event must have for the filter to match, and
`FilterIndex` uses that to find, for each event, the few filters worth evaluating.

Easy to get wrong: the index only leaves out filters that cannot match; it never decides that one
does.
"""
