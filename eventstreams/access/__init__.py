"""Verifies access tokens, tickets and producer keys.

`Tokens` verifies a JSON Web Token with the public keys of a `KeySet` and returns an `Identity`.
`Tickets` carry an identity in the URL of one request, for clients that cannot set headers.
`Producers` holds the keys of the programs that may post, and their streams. `Policy` holds what a
reload can change.

Easy to get wrong: an `Identity` contains the scopes that a client has, not those that it needs.
`eventstreams/web/access.py` compares the two.
"""
