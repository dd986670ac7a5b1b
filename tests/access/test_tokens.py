"""Valid tokens are accepted and others refused, with messages that contain no part of a token."""

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
from jwt.algorithms import ECAlgorithm

from eventstreams.access import key_sets
from eventstreams.access.key_sets import KeySet
from eventstreams.access.tokens import Tokens
from eventstreams.errors import AccessUnavailable, InvalidToken
from tests.support.issuer import SECRET, Pair, filled, key_set, secret_token

pytestmark = pytest.mark.anyio

PAIRS = [Pair(algorithm, algorithm) for algorithm in ("RS256", "ES256", "EdDSA")]


class Issuer:
    """A server of keys that a test can replace or disable."""

    def __init__(self, keys: bytes) -> None:
        self.keys = keys
        self.status = 200
        self.asked = 0

    async def answer(self, _: httpx.Request) -> httpx.Response:
        self.asked += 1
        await asyncio.sleep(0)  # let other tasks run
        return httpx.Response(self.status, content=self.keys)

    def key_set(self, *, refresh_s: float = 300.0, again_s: float = 60.0) -> KeySet:
        return KeySet(
            file=None,
            url="https://issuer/keys",
            refresh_s=refresh_s,
            again_s=again_s,
            client=httpx.AsyncClient(transport=httpx.MockTransport(self.answer)),
        )


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
async def test_a_valid_token_yields_its_subject_and_scopes(issuer: Issuer, pair: Pair) -> None:
    tokens = checking(issuer.key_set())
    expires_at = time.time() + 60
    found = await tokens.identity(pair.token(scope="read:a read:b", exp=expires_at))
    assert found == ("someone", {"read:a", "read:b"}, pytest.approx(expires_at, abs=1))
    listed = await tokens.identity(pair.token(scope=["x", 1], scp="y z"))
    assert listed.scopes == {"x", "y", "z"}
    assert issuer.asked == 1, "keys are cached"


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.algorithm)
async def test_a_token_with_a_foreign_signature_is_refused(issuer: Issuer, pair: Pair) -> None:
    other = Pair(pair.algorithm, pair.id)
    assert "signature" in await refused(checking(issuer.key_set()), other.token())


async def test_an_invalid_claim_is_refused_with_the_reason(issuer: Issuer) -> None:
    tokens = checking(issuer.key_set(), issuer="https://issuer", audience="streams")
    good = {"iss": "https://issuer", "aud": ["streams", "other"]}
    pair = PAIRS[2]
    assert (await tokens.identity(pair.token(**good))).subject == "someone"
    for changed, reason in (
        ({"exp": time.time() - 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"nbf": time.time() + 60}, "not valid yet"),
        ({"iss": "https://other"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"aud": "other"}, "audience"),
        ({"aud": None}, "aud"),
        ({"exp": "soon"}, "not a valid"),
    ):
        assert reason in await refused(tokens, pair.token(**{**good, **changed})), changed


@pytest.mark.parametrize(
    ("claims", "subject"),
    [
        ({"sub": 4}, "4"),  # issued by MediaWiki's OAuth
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
async def test_every_matching_key_is_tried(algorithm: str) -> None:
    """A set may contain keys of other curves and types, and older keys of the same type."""
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


async def test_a_token_cannot_choose_its_algorithm(issuer: Issuer) -> None:
    """The two classic attacks: algorithm `none`, and a public key as the shared secret."""
    tokens = checking(issuer.key_set(), secret=SECRET)
    claims = {"exp": time.time() + 60}
    for algorithm in ("none", "None", "", None, 5, "HS512", "PS256"):
        assert await refused(tokens, unsigned({"alg": algorithm, "typ": "JWT"}, claims))
    signed = unsigned({"alg": "HS256"}, claims).removesuffix(".")
    public = json.dumps(PAIRS[0].jwk).encode()
    mac = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), "sha256")).rstrip(b"=")
    assert "signature" in await refused(tokens, f"{signed}.{mac.decode()}")
    crossed = jwt.encode(claims, PAIRS[1].private, "ES256", headers={"kid": "RS256"})
    assert "unknown key" in await refused(tokens, crossed)


async def test_hs256_needs_a_configured_secret(issuer: Issuer) -> None:
    assert (await checking(issuer.key_set(), secret=SECRET).identity(secret_token())).subject
    assert "algorithm" in await refused(checking(issuer.key_set()), secret_token())


@given(st.text(max_size=300) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
@examples(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_arbitrary_text_is_refused(text: str) -> None:
    tokens = checking(KeySet(file=None, url=None, refresh_s=60.0), secret=SECRET)
    with pytest.raises(InvalidToken):
        asyncio.run(tokens.identity(text))


async def test_an_overlong_token_is_not_parsed(issuer: Issuer) -> None:
    assert "longer" in await refused(checking(issuer.key_set()), "x" * 10_000)


async def test_unknown_keys_cause_no_flood_of_requests(issuer: Issuer) -> None:
    tokens = checking(issuer.key_set())
    await tokens.identity(PAIRS[2].token())
    issuer.keys = key_set(new := Pair("EdDSA", "new"))
    assert "unknown key" in await refused(tokens, new.token())
    assert issuer.asked == 1, "anyone can invent the names of keys"


async def test_rotated_keys_are_found_without_a_restart(issuer: Issuer) -> None:
    tokens = checking(issuer.key_set(again_s=0.0))
    old, new = PAIRS[2], Pair("EdDSA", "new")
    await tokens.identity(old.token())
    issuer.keys = key_set(new)
    assert (await tokens.identity(new.token())).subject == "someone"
    assert "unknown key" in await refused(tokens, old.token())


async def test_keys_stay_valid_while_the_issuer_is_unavailable(issuer: Issuer) -> None:
    tokens = checking(issuer.key_set(refresh_s=0.0))
    await tokens.identity(PAIRS[0].token())
    for issuer.status, issuer.keys in ((500, b""), (200, b"[]"), (200, b"\xff{")):
        assert (await tokens.identity(PAIRS[0].token())).subject == "someone"
    assert issuer.asked > 1


async def test_without_any_keys_access_is_unavailable(issuer: Issuer) -> None:
    issuer.status = 503
    with pytest.raises(AccessUnavailable) as error:
        await checking(issuer.key_set()).identity(PAIRS[0].token())
    assert error.value.status == 503
    assert error.value.retry_after_s


async def test_concurrent_requests_share_one_load_of_keys(issuer: Issuer) -> None:
    tokens = checking(issuer.key_set())
    await asyncio.gather(*(tokens.identity(PAIRS[2].token()) for _ in range(20)))
    assert issuer.asked == 1


async def test_a_changed_key_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(PAIRS[0]))
    tokens = checking(KeySet(file=file, url=None, refresh_s=0.0))
    await tokens.identity(PAIRS[0].token())
    file.write_bytes(key_set(PAIRS[1]))
    await tokens.identity(PAIRS[1].token())


def test_unusable_keys_are_ignored() -> None:
    weak, good = Pair("RS256", "weak", bits=1024), PAIRS[1]
    entries: list[Any] = [
        weak.jwk,
        {"kty": "oct", "k": "c2VjcmV0"},
        {**good.jwk, "use": "enc"},
        {**good.jwk, "alg": "ES512"},
        {**json.loads(ECAlgorithm.to_jwk(good.private)), "kid": "private"},
        {"kty": "RSA", "n": "x"},
        "text",
        None,
        good.jwk,
    ]
    assert [key.id for key in key_sets.parse(json.dumps({"keys": entries}).encode())] == ["ES256"]


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_any_text_is_a_key_set_or_a_value_error(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        key_sets.parse(text)


@pytest.mark.parametrize("from_file", [True, False])
async def test_a_key_set_beyond_the_size_limit_is_refused_and_the_old_one_stays(
    issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, from_file: bool
) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(issuer.keys)
    keys = (
        KeySet(file=path, url=None, refresh_s=0.0) if from_file else issuer.key_set(refresh_s=0.0)
    )
    token = PAIRS[0].token()
    tokens = checking(keys)
    assert (await tokens.identity(token)).subject == "someone"
    issuer.keys += b" " * key_sets._BYTES_MAX
    path.write_bytes(issuer.keys)
    assert (await tokens.identity(token)).subject == "someone"
    assert f"the key set has more than {key_sets._BYTES_MAX} bytes" in caplog.text
    assert key_sets._BYTES_MAX <= 256 * 1024
    with pytest.raises(ValueError, match="more than 262144 bytes"):
        key_sets.parse(issuer.keys)


async def test_a_key_without_an_id_verifies_a_token_that_names_one() -> None:
    pair = Pair("ES256", None)
    tokens = checking(Issuer(key_set(pair)).key_set())
    token = jwt.encode(filled({}), pair.private, "ES256", headers={"kid": "named"})
    assert (await tokens.identity(token)).subject == "someone"


async def test_an_endless_key_set_is_refused(issuer: Issuer) -> None:
    issuer.keys += b" " * 2**20
    with pytest.raises(AccessUnavailable):
        await checking(issuer.key_set()).identity(PAIRS[0].token())


@pytest.mark.parametrize("leeway_s", [0.0, 30.0])
async def test_the_expiry_of_an_identity_includes_the_leeway(
    issuer: Issuer, leeway_s: float
) -> None:
    tokens = checking(issuer.key_set(), leeway_s=leeway_s)
    end = int(time.time()) + 600
    assert (await tokens.identity(PAIRS[2].token(exp=end))).expires_at == end + leeway_s


@pytest.mark.parametrize("end", [10**15, 10**300, 10**400])
async def test_a_distant_expiry_is_a_time_that_timers_accept(issuer: Issuer, end: int) -> None:
    identity = await checking(issuer.key_set()).identity(PAIRS[2].token(exp=end))
    assert time.time() + 10**9 < identity.expires_at < 10**13
