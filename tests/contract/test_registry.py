"""A real schema registry gives our schemas their ids, and plain Confluent clients and we agree."""

import hashlib
import io
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from metaledger.schemas.catalogue import SCHEMAS, latest
from metaledger.schemas.codec import Codec
from metaledger.schemas.errors import OperatorError, Unreachable, UsageError
from metaledger.schemas.framing import SchemaIds, read_schema_ids
from metaledger.schemas.registry import RegistryAccess, look_up, register_all

from .samples import EVENTS, UPDATED, event

SUBJECTS = sorted({schema.subject for schema in SCHEMAS})


def asked(url: str, path: str, body: Any = None) -> Any:
    """What a plain client of the registry is answered."""
    content = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    request = urllib.request.Request(url + path, data=content, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def ids(registry_url: str) -> SchemaIds:
    """The ids of all schemas, given now or before."""
    return register_all(RegistryAccess(url=registry_url))


def test_before_their_registration_no_schema_has_an_id(registry_url: str) -> None:
    there = asked(registry_url, "/subjects")
    known = look_up(RegistryAccess(url=registry_url + "/"))
    assert len(known.by_fingerprint) == (len(SCHEMAS) if SUBJECTS[0] in there else 0)


def test_every_schema_gets_an_id_of_its_own(ids: SchemaIds) -> None:
    assert set(ids.by_fingerprint) == {schema.fingerprint for schema in SCHEMAS}


def test_subjects_are_record_names_held_to_full_transitive(
    ids: SchemaIds, registry_url: str
) -> None:
    assert ids
    assert set(SUBJECTS) <= set(asked(registry_url, "/subjects"))
    for subject in SUBJECTS:
        config = asked(registry_url, f"/config/{subject}")
        assert config == {"compatibilityLevel": "FULL_TRANSITIVE"}
        shipped = [schema for schema in SCHEMAS if schema.subject == subject]
        assert len(asked(registry_url, f"/subjects/{subject}/versions")) == len(shipped)


def test_registering_again_and_looking_up_give_the_same_ids(
    ids: SchemaIds, registry_url: str, tmp_path: Any
) -> None:
    access = RegistryAccess(url=registry_url)
    assert register_all(access) == look_up(access) == ids
    path = tmp_path / "ids.json"
    path.write_text(ids.to_json())
    assert read_schema_ids(path) == ids


@pytest.mark.parametrize("told", EVENTS, ids=lambda each: each.type)
def test_a_plain_reader_reads_what_we_write(told: Any, ids: SchemaIds, registry_url: str) -> None:
    value = Codec(ids=ids).encode(told).value
    assert value[0] == 0
    schema_id = int.from_bytes(value[1:5], "big")
    writer = json.loads(asked(registry_url, f"/schemas/ids/{schema_id}")["schema"])
    datum: Any = schemaless_reader(io.BytesIO(value[5:]), parse_schema(writer), None)
    assert writer["name"] == told.type
    assert datum["meta"]["event_id"] == told.meta.event_id
    assert datum["meta"]["occurred_at"] == told.meta.occurred_at


def test_we_read_what_a_plain_writer_writes(ids: SchemaIds, registry_url: str) -> None:
    found = asked(registry_url, "/subjects/metaledger.ImageUpdated/versions/latest")
    head = {
        "event_id": UPDATED.meta.event_id,
        "deployment_id": "default",
        "aggregate": "image:i",
        "stream_id": "s",
        "epoch": 1,
        "stream_seq": 1,
        "occurred_at": UPDATED.meta.occurred_at,
        "service": "java",
        "host": "h",
        "origin": "OBSERVED",
        "missed": 0,
    }
    change = {"mode": "MERGE", "set": {"k": "v"}, "exempt": [], "altered": []}
    datum = {"meta": head, "image_id": "i", "attributes": {}, "change": change}
    target = io.BytesIO(b"\0" + found["id"].to_bytes(4, "big"))
    target.seek(5)
    schemaless_writer(target, parse_schema(json.loads(found["schema"])), datum)
    value = target.getvalue()
    told: Any = Codec(ids=ids).decode(value, hashlib.sha256(value).digest())
    assert (told.meta.service, told.data.change.set) == ("java", {"k": "v"})


def test_the_registry_itself_refuses_an_incompatible_schema(
    ids: SchemaIds, registry_url: str
) -> None:
    assert ids
    source = json.loads(json.dumps(latest("ImageDeleted").source))
    source["fields"].append({"name": "why", "type": "string"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        asked(
            registry_url,
            "/subjects/metaledger.ImageDeleted/versions",
            {"schema": json.dumps(source)},
        )
    with caught.value as answer:
        assert answer.code == 409


def test_an_address_without_the_api_is_named(registry_url: str) -> None:
    for url in (registry_url.rpartition("/apis")[0], registry_url + "/nonsense"):
        with pytest.raises(UsageError, match="no Confluent-compatible API"):
            look_up(RegistryAccess(url=url))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "registry:8080",
        "file:///etc/passwd",
        "ftp://host/x",
        "HTTP:///x",
        "http://host:99999/x",
        "http://[::1/x",
        "http://user:s3cret@host/x",
        "http://s3cret@host/x",
        "http://host/x?token=s3cret",
        "http://host/x#s3cret",
        "http://host/a b",
        "http://host/\nHost: x",
        "http://höst/x",
    ],
)
def test_an_url_that_is_none_of_a_registry_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(UsageError, match="the schema registry's URL") as caught:
        RegistryAccess(url=url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "credentials",
    [
        {"username": "u", "token": "s3cret"},
        {"token": "s3cret\nX: y"},
        {"token": "s3crét"},
        {"username": "u:s3cret"},
    ],
    ids=str,
)
def test_credentials_that_are_none_are_refused(credentials: Any) -> None:
    with pytest.raises(UsageError) as caught:
        RegistryAccess(url="http://host/", **credentials)
    assert "s3cret" not in str(caught.value)


def test_secrets_are_in_no_representation() -> None:
    access = RegistryAccess(url="http://host/", username="u", password="s3cret")
    assert "s3cret" not in repr(access)
    assert "s3cret" not in repr(RegistryAccess(url="http://host/", token="s3cret"))


@contextmanager
def answering(
    status: int, body: bytes = b"{}", headers: dict[str, str] | None = None
) -> Iterator[tuple[str, list[str | None]]]:
    """A server that answers one thing to all: its URL, and the credentials that it was told."""
    told: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            told.append(self.headers["Authorization"])
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", told
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        ({}, None),
        ({"username": "Aladdin", "password": "open sesame"}, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ({"username": "u"}, "Basic dTo="),
        ({"token": "t0k3n"}, "Bearer t0k3n"),
    ],
)
def test_the_registry_is_told_who_asks(credentials: Any, expected: str | None) -> None:
    with answering(404, b'{"error_code": 40401}') as (url, told):
        assert look_up(RegistryAccess(url=url, **credentials)) == SchemaIds()
    assert set(told) == {expected}


def test_nothing_is_registered_where_compatibility_cannot_be_held() -> None:
    with (
        answering(404, b'{"error_code": 40401}') as (url, told),
        pytest.raises(OperatorError, match="to FULL_TRANSITIVE"),
    ):
        register_all(RegistryAccess(url=url))
    assert len(told) == 2  # asked and set, and nothing after


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (200, b"<html>", UsageError, "no Confluent-compatible API"),
        (200, b"[" * 100_000, UsageError, "no Confluent-compatible API"),
        (200, b" " * (2 << 20), UsageError, "no Confluent-compatible API"),
        (200, b"{}", OperatorError, "without an id"),
        (200, b'{"id": "7"}', OperatorError, "without an id"),
        (200, b'{"id": -7}', UsageError, "no id of a schema registry"),
        (200, b'{"id": 7}', UsageError, "two schemas have the same id"),
        (401, b"", UsageError, "refuses the credentials"),
        (403, b"{}", UsageError, "refuses the credentials"),
        (404, b"{}", UsageError, "no Confluent-compatible API"),
        (409, b'{"message": "\\u001b[31mIncompatible"}', OperatorError, "Incompatible"),
        (422, b'{"message": 7}', OperatorError, "refuses"),
        (429, b"{}", Unreachable, "try again"),
        (500, b"oops", Unreachable, "try again"),
    ],
    ids=str,
)
def test_every_other_answer_is_one_clear_line(
    status: int, body: bytes, error: type[Exception], message: str
) -> None:
    with answering(status, body) as (url, _), pytest.raises(error, match=message) as caught:
        register_all(RegistryAccess(url=url, username="u", password="s3cret"))
    assert str(caught.value).isprintable()
    assert "s3cret" not in str(caught.value)


def test_credentials_do_not_follow_a_redirect() -> None:
    with answering(200) as (elsewhere, told):
        moved = {"Location": elsewhere + "/subjects"}
        for status in (301, 302, 307, 308):
            with (
                answering(status, headers=moved) as (url, _),
                pytest.raises(UsageError, match="has moved"),
            ):
                register_all(RegistryAccess(url=url, token="s3cret"))
    assert told == []


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200) as (proxy, told), answering(404, b'{"error_code": 40401}') as (url, _):
        monkeypatch.setenv("http_proxy", proxy)
        look_up(RegistryAccess(url=url))
    assert told == []


def test_a_registry_that_is_away_is_unreachable_in_one_line() -> None:
    with answering(200) as (url, _):
        pass
    with pytest.raises(Unreachable, match="no schema registry answers at http") as caught:
        look_up(RegistryAccess(url=url))
    assert str(caught.value).isprintable()


def test_a_registry_that_says_nothing_is_unreachable() -> None:
    silent = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    with silent, pytest.raises(Unreachable, match="timed out"):
        look_up(RegistryAccess(url=f"http://127.0.0.1:{silent.server_port}"), timeout_s=0.2)


def test_an_event_of_any_type_has_its_sample() -> None:
    assert event(UPDATED.data) == UPDATED
    assert {told.type for told in EVENTS} == {schema.type for schema in SCHEMAS}
