"""Tokens: what is let in, what is not, and that nothing of a token is in what is said of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from eventstreams.access import jwks
from eventstreams.access.errors import AccessUnavailable, InvalidToken
from eventstreams.access.jwks import KeySet
from eventstreams.access.tokens import Tokens
from tests.access.issuer import SECRET, Pair, key_set, secret_token

pytestmark = pytest.mark.anyio

PAIRS = [Pair(algorithm, algorithm) for algorithm in ("RS256", "ES256", "EdDSA")]


class Issuer:
    """A server of keys that can be exchanged and taken down."""

    def __init__(self, keys: bytes) -> None:
        self.keys = keys
        self.status = 200
        self.asked = 0

    def answer(self, _: httpx.Request) -> httpx.Response:
        self.asked += 1
        return httpx.Response(self.status, content=self.keys)

    def key_set(self, refresh_s: float = 300.0) -> KeySet:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        return KeySet(file=None, url="https://issuer/keys", refresh_s=refresh_s, client=client)


@pytest.fixture
async def issuer() -> Issuer:
    return Issuer(key_set(*PAIRS))


def checking(keys: KeySet, **options: Any) -> Tokens:
    every = {"secret": None, "issuer": None, "audience": None, "leeway_s": 0.0, **options}
    return Tokens(keys=keys, **every)


async def refused(tokens: Tokens, token: str) -> str:
    with pytest.raises(InvalidToken) as error:
        await tokens.identity(token)
    for part in token.split("."):
        assert len(part) < 8 or part not in error.value.detail
    return error.value.detail


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.algorithm)
async def test_a_good_token_says_who_it_is_and_what_it_may_read(issuer: Issuer, pair: Pair) -> None:
    tokens = checking(issuer.key_set())
    expires_at = time.time() + 60
    found = await tokens.identity(pair.token(scope="read:a read:b", exp=expires_at))
    assert found == ("someone", {"read:a", "read:b"}, pytest.approx(expires_at, abs=1))
    listed = await tokens.identity(pair.token(scope=["x", 1], scp="y z"))
    assert listed.scopes == {"x", "y", "z"}
    assert issuer.asked == 1, "keys are kept"


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.algorithm)
async def test_what_another_has_signed_is_refused(issuer: Issuer, pair: Pair) -> None:
    other = Pair(pair.algorithm, pair.id)
    assert "signature" in await refused(checking(issuer.key_set()), other.token())


async def test_what_does_not_hold_is_refused_with_the_reason(issuer: Issuer) -> None:
    tokens = checking(issuer.key_set(), issuer="https://issuer", audience="streams")
    good = {"iss": "https://issuer", "aud": ["streams", "other"]}
    pair = PAIRS[2]
    assert (await tokens.identity(pair.token(**good))).subject == "someone"
    for changed, reason in (
        ({"exp": time.time() - 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"nbf": time.time() + 60}, "not good yet"),
        ({"iss": "https://other"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"aud": "other"}, "audience"),
        ({"aud": None}, "aud"),
        ({"exp": "soon"}, "not a good"),
    ):
        assert reason in await refused(tokens, pair.token(**{**good, **changed})), changed


@pytest.mark.parametrize(
    ("claims", "subject"),
    [
        ({"sub": 4}, "4"),  # MediaWiki's OAuth issued them
        ({"sub": 4.5}, "4.5"),
        ({"sub": 10**30}, str(10**30)),
        ({"sub": "4"}, "4"),
        ({"sub": None}, None),
        ({"sub": ["a"]}, None),
        ({"sub": True}, None),
        ({"sub": "a", "jti": 7}, "a"),
    ],
)
async def test_a_subject_may_be_a_number(
    issuer: Issuer, claims: dict[str, Any], subject: str | None
) -> None:
    token = PAIRS[2].token(**claims, scopes=["basic"])
    found = await checking(issuer.key_set()).identity(token)
    assert (found.subject, found.scopes) == (subject, {"basic"})


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_every_key_that_fits_is_tried(algorithm: str) -> None:
    """A set may hold keys of other curves and types, and older keys of the same."""
    pair = Pair(algorithm, None)
    others = [Pair("ES384", None), Pair("ES256K", None), Pair("ES256", None), Pair("EdDSA", None)]
    exchange = {"kty": "OKP", "crv": "X25519", "x": "A" * 43}
    unknown: list[dict[str, Any]] = [exchange, {"kty": "AKP"}, {"kty": "oct", "k": "AA"}]
    ours = {**pair.jwk, "alg": None, "use": None}
    keys = [*unknown, *(other.jwk for other in others), ours]
    for order in (keys, keys[::-1]):
        tokens = checking(Issuer(json.dumps({"keys": order}).encode()).key_set())
        assert (await tokens.identity(pair.token())).subject == "someone"
        assert "signature" in await refused(tokens, Pair(algorithm, None).token())
        assert await refused(tokens, others[0].token())


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(p).encode()) for p in (header, claims)]
    return b".".join([*(part.rstrip(b"=") for part in parts), b""]).decode()


async def test_no_token_chooses_how_it_is_checked(issuer: Issuer) -> None:
    """The two attacks that every library of this kind has had: none, and a public key as secret."""
    tokens = checking(issuer.key_set(), secret=SECRET)
    claims = {"exp": time.time() + 60}
    for algorithm in ("none", "None", "", None, 5, "HS512", "PS256"):
        assert await refused(tokens, unsigned({"alg": algorithm, "typ": "JWT"}, claims))
    signed = unsigned({"alg": "HS256"}, claims).removesuffix(".")
    public = json.dumps(PAIRS[0].jwk).encode()
    mac = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), "sha256")).rstrip(b"=")
    assert "signature" in await refused(tokens, f"{signed}.{mac.decode()}")
    crossed = jwt.encode(claims, PAIRS[1].private, "ES256", headers={"kid": "RS256"})
    assert "not known" in await refused(tokens, crossed)


async def test_a_shared_secret_is_taken_only_where_there_is_one(issuer: Issuer) -> None:
    assert (await checking(issuer.key_set(), secret=SECRET).identity(secret_token())).subject
    assert "way" in await refused(checking(issuer.key_set()), secret_token())


@given(st.text(max_size=300) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
@examples(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_is_refused(text: str) -> None:
    tokens = checking(KeySet(file=None, url=None, refresh_s=60.0), secret=SECRET)
    with pytest.raises(InvalidToken):
        asyncio.run(tokens.identity(text))


async def test_a_token_of_great_length_is_not_looked_at(issuer: Issuer) -> None:
    assert "longer" in await refused(checking(issuer.key_set()), "x" * 10_000)


async def test_keys_that_rotate_are_found_without_a_restart(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = checking(issuer.key_set())
    old, new = PAIRS[2], Pair("EdDSA", "new")
    await tokens.identity(old.token())
    issuer.keys = key_set(new)
    assert "not known" in await refused(tokens, new.token()), "asked just now"
    assert issuer.asked == 1, "what tokens name is for anyone to invent"
    monkeypatch.setattr(jwks, "_AGAIN_S", 0.0)
    assert (await tokens.identity(new.token())).subject == "someone"
    assert "not known" in await refused(tokens, old.token())


async def test_keys_stay_good_while_the_issuer_is_away(issuer: Issuer) -> None:
    tokens = checking(issuer.key_set(refresh_s=0.0))
    await tokens.identity(PAIRS[0].token())
    for issuer.status, issuer.keys in ((500, b""), (200, b"[]"), (200, b"\xff{")):
        assert (await tokens.identity(PAIRS[0].token())).subject == "someone"
    assert issuer.asked > 1


async def test_without_any_keys_nobody_is_called_a_liar(issuer: Issuer) -> None:
    issuer.status = 503
    with pytest.raises(AccessUnavailable) as error:
        await checking(issuer.key_set()).identity(PAIRS[0].token())
    assert error.value.status == 503
    assert error.value.retry_after_s


async def test_who_ask_at_once_share_one_look(issuer: Issuer) -> None:
    tokens = checking(issuer.key_set())
    await asyncio.gather(*(tokens.identity(PAIRS[2].token()) for _ in range(20)))
    assert issuer.asked == 1


async def test_a_file_of_keys_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(PAIRS[0]))
    tokens = checking(KeySet(file=file, url=None, refresh_s=0.0))
    await tokens.identity(PAIRS[0].token())
    file.write_bytes(key_set(PAIRS[1]))
    await tokens.identity(PAIRS[1].token())


def test_keys_that_are_no_good_are_left_out() -> None:
    weak, good = Pair("RS256", "weak", bits=1024), PAIRS[1]
    entries: list[Any] = [
        weak.jwk,
        {"kty": "oct", "k": "c2VjcmV0"},
        {**good.jwk, "use": "enc"},
        {**good.jwk, "alg": "ES512"},
        {"kty": "RSA", "n": "x"},
        "text",
        None,
        good.jwk,
    ]
    assert [key.id for key in jwks.parse(json.dumps({"keys": entries}).encode())] == ["ES256"]


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_whatever_an_issuer_says_is_a_set_of_keys_or_a_value_error(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        jwks.parse(text)
