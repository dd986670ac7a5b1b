"""Each parser of requests accepts any input or refuses it with an error for the client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.access import key_sets
from eventstreams.access.key_sets import KeySet
from eventstreams.access.producer_keys import load_producers
from eventstreams.access.tickets import Tickets
from eventstreams.access.tokens import Tokens
from eventstreams.config.catalogue import load_catalogue
from eventstreams.config.settings import SharedSettings
from eventstreams.errors import BadSchemaUri, ClientError, ConfigError, InvalidToken
from eventstreams.metrics import Metrics
from eventstreams.model.redaction import Redaction, Rule
from eventstreams.model.steps import finished
from eventstreams.model.stream_config import parse_constraints
from eventstreams.model.timestamp import parse_moment
from eventstreams.quota.builder import open_shared
from eventstreams.quota.quota import Quota
from eventstreams.schemas.uri import SchemaUri, parse_uri
from eventstreams.server.logs import JsonFormatter
from eventstreams.web import answers, coding, request
from eventstreams.web.access import Access, bearer
from eventstreams.web.address import Proxies, _alone, shortened, site_of
from eventstreams.web.admin import _question
from eventstreams.web.cursor import explain
from eventstreams.web.headers import RepeatedHeader
from eventstreams.web.query import Query
from tests.support.issuer import SECRET
from tests.support.strategies import documents, texts

raw = st.binary(max_size=60)
"""Values of headers: any bytes that an HTTP parser accepts."""
wide = st.text(max_size=40)
numbers = st.integers(-(10**40), 10**40) | st.floats() | st.sampled_from([10**400, -(10**400)])
_PARAMETERS = (
    *("since", "until", "limit", "max_seconds", "filter", "fields", "sample", "canary"),
    *("heartbeat", "gap", "compress", "ticket", "id", "last-event-id", "streams", "since[a]"),
    *("sort", "client", "stream", "state", "close"),
)
queries = st.lists(st.tuples(st.sampled_from(_PARAMETERS), wide), max_size=4)
addresses = st.ip_addresses().map(str) | st.from_regex(r"[0-9a-f:.%\[\]/_-]{0,50}", fullmatch=True)


def scope(
    query: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None, path: bytes = b"/"
) -> dict[str, Any]:
    return {
        "method": "GET",
        "query_string": query,
        "raw_path": path,
        "path": path.decode("latin-1"),
        "headers": headers or [],
        "client": ("127.0.0.1", 1),
    }


def written(pairs: list[tuple[str, str]]) -> bytes:
    """Encode text as part of a query, leaving characters without a special meaning."""
    text = "&".join(f"{name}={value}" for name, value in pairs)
    return text.encode("utf-8", "surrogatepass").replace(b" ", b"+")


@given(queries, st.lists(st.tuples(st.sampled_from([b"accept", b"last-event-id"]), raw)))
def test_any_stream_request_is_accepted_or_refused(
    pairs: list[tuple[str, str]], headers: list[tuple[bytes, bytes]]
) -> None:
    asked = scope(written(pairs), headers)
    with contextlib.suppress(ClientError):
        assert finished(request.reading(asked, Query(asked), "always")).spec.partitions == ()


@given(queries)
def test_any_admin_request_is_accepted_or_refused(pairs: list[tuple[str, str]]) -> None:
    with contextlib.suppress(ClientError):
        assert 0 <= _question(Query(scope(written(pairs))))["limit"] <= 10_000


@given(st.binary(max_size=60))
def test_any_path_is_of_streams_or_not(path: bytes) -> None:
    asked = scope(path=b"/v2/stream/" + path)
    assert not request.names_streams(asked) or orjson.dumps(request.stream_names(asked))


HUGE = 200_000
"""The number of characters that a head may have."""
UNITS = (
    *(
        " ",
        "\t",
        ",",
        ", ",
        " ,",
        "],",
        "] ,",
        "]} ,",
        "v1.",
        "v1.a,",
        "v1.a-",
        "[",
        "[{",
        "{}",
        "0",
    ),
    *(
        "0.",
        "a",
        "a,",
        "a;q=0.5,",
        ";",
        "; ",
        "a=",
        "a[b]=c|",
        "[a]",
        "1 jan ",
        "mon, ",
        "%61",
        '"',
    ),
)


@pytest.mark.parametrize("unit", UNITS)
def test_repetitions_take_linear_time(unit: str) -> None:
    began_s = time.process_time()
    for before, behind in (("", ""), ("x", "x"), ("[", "x"), ("v1.", "!")):
        text = before + unit * (HUGE // len(unit)) + behind
        value = text.encode("latin-1")
        names = (b"last-event-id", b"accept", b"accept-encoding", b"authorization", b"cookie")
        asked = scope(headers=[(name, value) for name in (*names, b"x-forwarded-for")])
        access = Access(tokens=None, tickets=None, cookie="c")  # type: ignore[arg-type]
        for parse in (
            lambda: finished(request.reading(asked, Query(asked), "always")),  # noqa: B023
            lambda: Proxies(["127.0.0.1"]).client(asked),  # noqa: B023
            lambda: access._from_cookie(asked),  # noqa: B023
            lambda: bearer(asked),  # noqa: B023
            lambda: parse_constraints(text),  # noqa: B023
            lambda: parse_moment(text, 0),  # noqa: B023
            lambda: parse_uri(text),  # noqa: B023
            lambda: explain(text),  # noqa: B023
            lambda: request.stream_names(scope(path=b"/v2/stream/" + value)),  # noqa: B023
        ):
            with contextlib.suppress(ClientError, ValueError, BadSchemaUri):
                parse()
    assert time.process_time() - began_s < 10, "quadratic algorithms would take minutes"


@pytest.mark.parametrize(
    ("line", "newest"),
    [
        ('[{"a":1},{"b":2}]', '[{"a":1},{"b":2}]'),
        ("[1] , [2]", "[2]"),
        ('{"ends":1,"id":[1]},[{"b":2},{"c":3}]', '[{"b":2},{"c":3}]'),
        ("v1.abc, v1.def", "v1.def"),
        ("v1.abc ,  v2.def", "v2.def"),
        ("v2.abc,[1]", "[1]"),
        ("[1],v2.abc", "v2.abc"),
        ('["a, b"]', '["a, b"]'),
    ],
)
def test_the_last_id_of_a_header_line_is_used(line: str, newest: str) -> None:
    asked = scope(headers=[(b"last-event-id", line.encode())])
    assert finished(request._last_event_id(asked)) == newest


@given(wide | documents.map(json.dumps) | raw.map(lambda b: b.decode("utf-8", "replace")))
def test_any_id_is_explained_or_refused(text: str) -> None:
    with contextlib.suppress(ClientError):
        assert orjson.dumps(explain(text))


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "topic": wide,
                "partition": numbers,
                "offset": numbers | wide,
                "timestamp": numbers | wide,
            },
        ),
        max_size=3,
    )
)
def test_any_entries_of_an_id_are_explained_or_refused(entries: list[dict[str, Any]]) -> None:
    with contextlib.suppress(ClientError):
        assert orjson.dumps(explain(json.dumps(entries)))


@given(raw | addresses.map(str.encode), st.lists(addresses, max_size=5), st.booleans())
def test_any_address_is_counted_in_bounded_form(said: bytes, hops: list[str], all_: bool) -> None:
    proxies = Proxies(["0.0.0.0/0", "::/0"] if all_ else ["127.0.0.1"])
    for headers in (
        [(b"x-client-ip", said)],
        [(b"x-forwarded-for", said), (b"x-forwarded-for", ", ".join(hops).encode())],
    ):
        client = proxies.client(scope(headers=headers))
        if client is not None:
            assert len(client) <= 64
            assert site_of(client)
            assert shortened(client)


@given(st.lists(addresses, min_size=1, max_size=8))
def test_the_nearest_hop_that_is_no_proxy_is_the_client(hops: list[str]) -> None:
    hops = [hop for hop in hops if hop.strip()]
    headers = [(b"x-forwarded-for", ", ".join([*hops, "127.0.0.1"]).encode())]
    client = Proxies(["127.0.0.1"]).client(scope(headers=headers))
    others = [hop for hop in hops if _alone(hop) not in ("127.0.0.1", "::ffff:127.0.0.1")]
    assert client == (_alone(others[-1]) if others else "127.0.0.1")


class _Counting(Proxies):
    looked = 0

    def _trusts(self, text: str) -> bool:
        self.looked += 1
        return super()._trusts(text)


@pytest.mark.parametrize("hop", ["127.0.0.1", "a", ""])
def test_only_the_nearest_hops_are_examined(hop: str) -> None:
    proxies = _Counting(["127.0.0.1"])
    proxies.client(scope(headers=[(b"x-forwarded-for", ",".join([hop] * 50_000).encode())]))
    assert proxies.looked <= 51


@given(st.text("gzip,;q=*0.1 x-stdeny\t\xff", max_size=60) | wide, wide | st.none())
def test_any_accepted_codings_lead_to_one_or_a_refusal(accepted: str, asked: str | None) -> None:
    with contextlib.suppress(ClientError):
        coding.choose("always", accepted, asked, is_browser=True)


@given(wide | st.text("/.0123456789abc-_:", max_size=30))
def test_any_schema_uri_is_accepted_or_refused(text: str) -> None:
    with contextlib.suppress(BadSchemaUri):
        found = parse_uri(text)
        assert isinstance(found, SchemaUri)
        assert str(found) == text
        assert ".." not in text.split("/")


@given(wide | st.text("ab[]=|.", max_size=30))
def test_any_constraints_are_accepted_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_constraints(text), dict)


@given(wide, texts)
def test_header_text_is_one_line_of_ascii(first: str, second: str) -> None:
    said = answers.printable(first + second).decode("ascii")
    assert said.isprintable()
    assert len(said) <= 200


# Tokens, keys, tickets


def _tokens(keys: KeySet | None = None) -> Tokens:
    none = keys or KeySet(file=None, url=None, refresh_s=3600)
    return Tokens(keys=none, secret=SECRET, issuer=None, audience=None, leeway_s=0.0)


def _tickets() -> Tickets:
    return Tickets(quota=Quota(open_shared(SharedSettings(), None), Metrics()), ttl_s=60)


def _part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


headers_of_tokens = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["none", "None", "HS256", "RS256", "ES256", "EdDSA"]) | documents,
        "kid": documents,
        "typ": documents,
        "crit": documents,
        "b64": st.booleans(),
        "jwk": documents,
    },
)


@given(
    wide
    | st.tuples(headers_of_tokens | raw, documents | raw, raw).map(
        lambda parts: f"{_part(parts[0])}.{_part(parts[1])}.{_part(parts[2])}"
    )
)
def test_unsigned_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        asyncio.run(_tokens().identity(token))


_claim = numbers | texts | documents
_OTHERS = ("nbf", "iat", "aud", "sub", "scope", "scp")
claims = st.fixed_dictionaries({"exp": _claim}, optional=dict.fromkeys(_OTHERS, _claim))


@given(claims)
def test_any_signed_token_fits_a_ticket_or_is_refused(
    claims: dict[str, Any],
) -> None:
    head, body = _part({"alg": "HS256"}), _part(claims)
    signature = jwt.get_algorithm_by_name("HS256").sign(f"{head}.{body}".encode(), SECRET)
    token = f"{head}.{body}.{_part(signature)}"

    async def check() -> None:
        tickets = _tickets()
        identity = await _tokens().identity(token)
        assert await tickets.redeem(await tickets.issue(identity)) == identity
        assert identity.expires_at > time.time() - 1

    with contextlib.suppress(InvalidToken):
        asyncio.run(check())


@given(
    st.lists(
        st.fixed_dictionaries(
            {"kty": st.sampled_from(["RSA", "EC", "OKP", "oct"]) | documents},
            optional={
                name: st.sampled_from(["AQAB", "AA", "", "P-256", "Ed25519"]) | documents
                for name in ("n", "e", "crv", "x", "y", "k", "kid", "use", "alg", "d")
            },
        ),
        max_size=3,
    )
    | documents
)
def test_any_key_set_is_accepted_or_refused(keys: Any) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(key_sets.parse(json.dumps({"keys": keys}).encode()), list)


async def _authorise(headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    tickets = _tickets()
    access = Access(tokens=_tokens(), tickets=tickets, cookie="session")
    with pytest.raises(ClientError):
        await access.authorise(scope(query, headers), ["read"])


@given(
    st.lists(st.tuples(st.sampled_from([b"authorization", b"cookie"]), raw), max_size=3),
    st.lists(wide, max_size=2),
    raw,
)
def test_invented_credentials_are_refused(
    headers: list[tuple[bytes, bytes]], tickets: list[str], value: bytes
) -> None:
    headers += [(b"authorization", b"Bearer " + value), (b"cookie", b"session=" + value)]
    asyncio.run(_authorise(headers, written([("ticket", ticket) for ticket in tickets])))
    with suppress(RepeatedHeader):
        token = bearer(scope(headers=headers))
        assert token is None or isinstance(token, str)


# Files of an operator


def _loaded(load: Any, text: str) -> Any:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(text.encode("utf-8", "surrogatepass"))
        file.flush()
        with contextlib.suppress(ConfigError):
            return load(Path(file.name))


yaml_texts = st.text("!:-0129xbo_.&*[]{} eT~\n\"'|>%@?<", max_size=30) | documents.map(json.dumps)
_SETTINGS = (
    *("topics", "aliases", "description", "schema_title", "scope", "redact", "topic_prefixes"),
    *("message_key_fields", "producers", "canary_events_enabled"),
)
rules = st.lists(st.dictionaries(st.sampled_from(["domain", "titles", "remove"]), wide))
streams = st.dictionaries(
    wide,
    documents | st.dictionaries(st.sampled_from(_SETTINGS) | wide, documents | rules, max_size=4),
    max_size=3,
)


@given(yaml_texts | streams.map(lambda s: json.dumps({"streams": s})))
def test_any_catalogue_is_accepted_or_refused(text: str) -> None:
    _loaded(load_catalogue, text)


@given(
    yaml_texts
    | st.dictionaries(
        wide,
        st.fixed_dictionaries({"keys_sha256": documents, "streams": documents}) | documents,
        max_size=3,
    ).map(yaml.safe_dump)
)
def test_any_producer_file_is_accepted_or_refused(text: str) -> None:
    _loaded(load_producers, text)


@given(
    documents,
    st.lists(texts, max_size=2),
    st.lists(texts.filter(bool), min_size=1, max_size=2),
    texts,
)
def test_any_rule_can_be_tried_on_any_event(
    document: Any, titles: list[str], remove: list[str], domain: str
) -> None:
    rule = Rule(domain, tuple(titles), tuple(remove))
    event = {"meta": {"domain": domain}, "title": titles[0] if titles else None, "a": document}
    assert Redaction([rule]).apply(event) == bool(titles)
    Redaction([rule]).apply(document)


# The log of the process


@given(documents | numbers | texts, texts | st.text())
def test_any_message_is_one_line_of_the_log(value: Any, said: str) -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": (said,), "user_agent": said, "n": value})
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert set(json.loads(line)) >= {"time", "level", "logger", "message", "user_agent", "n"}
    assert line.encode()
