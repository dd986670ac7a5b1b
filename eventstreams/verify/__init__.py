"""Checks from outside whether a gateway of event streams works as clients expect.

`eventstreams verify URL --streams NAME` runs every `Check` against one gateway and reports a
`Verdict` for each. It uses only HTTP, so it can also check Wikimedia's EventStreams, a gateway
behind a proxy, or another implementation.

The path of data:

    wire.Client       HTTP/1.1 requests, one per connection, with the ends of HTTP chunks
    reading.Reading   one open stream: its bytes, and the events in them, as they arrive
    target.Target     the gateway under test: address, streams, how to post test events, limits
    observations      data for several checks, collected once: a sample of events, streams resumed
                      from each of their ids, a quiet stream, a stream of posted events
    checks/*          the checks by subject; each uses observations or makes its own requests
    registry.CHECKS   all checks, in the order in which they run
    runner.run        runs them in sequence, each with a time limit, within a total budget
    report            the table and the JSON document

A verdict is `pass` (correct, and the same as in EventStreams 0.8.0), `differs` (correct, and
deliberately different from EventStreams), `fail` (clients lose, repeat or misread something, even
if EventStreams does the same) or `skipped` (not observable; the evidence says what is needed).

Easy to get wrong: a check that cannot observe its subject is skipped. It never
passes.
"""
