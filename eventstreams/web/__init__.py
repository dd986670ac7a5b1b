"""Serves HTTP, with one file per resource.

Streams (`streams.py`) and posts (`events.py`, `beacon.py`) are raw ASGI, because there are many of
them; everything else consists of Starlette routes. Handlers raise ClientErrors, and
`answers.refusal` turns each into a response. `query.py` and `headers.py` have the rules for query
parameters and headers, `request.py` parses requests for streams, `limits.py` limits the use of the
gateway by clients, and `openapi.yaml` describes the API.

Easy to get wrong: a stream that has begun cannot respond with an error status. `streams.py` sends
the error as the last event instead.
"""
