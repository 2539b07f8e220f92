"""A client for a schema registry with the Confluent-compatible API: it gives ids, nothing else.

A registry never tells this build what a schema is: it is asked for the ids of the schemas that are
here (`look_up`), or given them (`register_all`), and answers with numbers. Subjects follow the
RecordNameStrategy, and each is held to FULL_TRANSITIVE. Only tools call this, and whoever reads or
writes the Confluent frame starts with the file that `SchemaIds.to_json` made of the answer: hooks
open no socket in a service's thread.

The standard library's client serves: a few requests, once. It follows no redirect, which would
carry the credentials elsewhere, and uses no proxy that the environment names.

    ids = register_all(RegistryAccess(url="https://registry.example/apis/ccompat/v7"))
"""

import json
import urllib.request
from base64 import b64encode
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from metaledger.schemas.catalogue import SCHEMAS, Schema
from metaledger.schemas.errors import (
    MetaledgerError,
    OperatorError,
    Unreachable,
    UsageError,
)
from metaledger.schemas.framing import SchemaIds
from metaledger.schemas.times import shown

COMPATIBILITY = "FULL_TRANSITIVE"
# An unreachable part is told within 10 s of the start (READ_MODEL.md); this leaves one to start in.
TIMEOUT_S = 9.0
# The longest answer is one of our schemas, some 10 kB.
_ANSWER_BYTES_MAX = 1 << 20
_JSON = "application/vnd.schemaregistry.v1+json"
# The API's own 404: this subject, this schema. Another 404 is no such API.
_NOT_THERE = (40401, 40403, 40408)
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAccess:
    """Where the registry is, and who asks: nobody, a user, or the bearer of a token.

    `url` is that of the API, such as `https://HOST/apis/ccompat/v7`. Raises UsageError.
    """

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (reason := _url_flaw(self.url)) is not None:
            raise UsageError(f"the schema registry's URL {reason}")
        if self.token is not None and self.username is not None:
            raise UsageError("the schema registry has a user name and a token: give one of them")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise UsageError("the schema registry's token has characters that no token has")
        if self.username is not None and ":" in self.username:
            raise UsageError("the schema registry's user name has a colon (RFC 7617 allows none)")


def register_all(access: RegistryAccess, *, timeout_s: float = TIMEOUT_S) -> SchemaIds:
    """Gives the registry every schema of this build, oldest first, and takes their ids.

    It can be run again and changes nothing then. Raises Unreachable, UsageError (the URL or the
    credentials), OperatorError (the registry holds an incompatible schema, or refuses).
    """
    client = _Client(access, timeout_s)
    for subject in dict.fromkeys(schema.subject for schema in SCHEMAS):
        client.hold_to_compatibility(subject)
    return SchemaIds({schema.fingerprint: client.register(schema) for schema in SCHEMAS})


def look_up(access: RegistryAccess, *, timeout_s: float = TIMEOUT_S) -> SchemaIds:
    """The ids of those of this build's schemas that the registry has. Raises as `register_all`."""
    client = _Client(access, timeout_s)
    found = {schema.fingerprint: client.id_of(schema) for schema in SCHEMAS}
    return SchemaIds({fingerprint: known for fingerprint, known in found.items() if known})


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect what it is: an answer that is no success."""

    def redirect_request(self, *_: Any) -> None:  # type: ignore[explicit-override]  # noqa: ANN401
        return None


class _Client:
    """The few requests, each with one meaning."""

    def __init__(self, access: RegistryAccess, timeout_s: float) -> None:
        self._url = access.url.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"Accept": _JSON, "Content-Type": _JSON, **_authorization(access)}
        direct = urllib.request.ProxyHandler({})
        self._opener = urllib.request.build_opener(direct, _NoRedirect)

    def hold_to_compatibility(self, subject: str) -> None:
        path = f"/config/{quote(subject)}"
        current = self._ask("GET", path)
        if current is not None and current.get("compatibilityLevel") == COMPATIBILITY:
            return
        if self._ask("PUT", path, {"compatibility": COMPATIBILITY}) is None:
            raise OperatorError(
                f"the schema registry at {self._url} cannot hold {subject} to {COMPATIBILITY}"
            )

    def register(self, schema: Schema) -> int:
        answer = self._ask("POST", f"/subjects/{quote(schema.subject)}/versions", _text(schema))
        return self._id_in(answer)

    def id_of(self, schema: Schema) -> int | None:
        answer = self._ask("POST", f"/subjects/{quote(schema.subject)}", _text(schema))
        return None if answer is None else self._id_in(answer)

    def _id_in(self, answer: dict[str, Any] | None) -> int:
        schema_id = (answer or {}).get("id")
        if not isinstance(schema_id, int):
            raise OperatorError(f"the schema registry at {self._url} answers without an id")
        return schema_id

    def _ask(
        self, method: str, path: str, body: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        """The answer; None where the API says that there is no such subject or schema."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 (the scheme is checked)
            self._url + path, data=content, headers=self._headers, method=method
        )
        status, content = self._send(request)
        answer = _json_object(content)
        if status == HTTPStatus.OK and answer is not None:
            return answer
        if status == HTTPStatus.NOT_FOUND and (answer or {}).get("error_code") in _NOT_THERE:
            return None
        raise self._refusal(status, path, answer)

    def _send(self, request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            try:
                answer = self._opener.open(request, timeout=self._timeout_s)
            except HTTPError as refusal:
                answer = refusal
            with answer:
                return answer.status, answer.read(_ANSWER_BYTES_MAX)
        except (OSError, HTTPException) as error:
            reason = shown(getattr(error, "reason", error))
            raise Unreachable(f"no schema registry answers at {self._url}: {reason}") from error

    def _refusal(self, status: int, path: str, answer: dict[str, Any] | None) -> MetaledgerError:
        """What an answer means that is neither a success nor the API's own "not there"."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _LATER:
            return Unreachable(f"the schema registry at {self._url} answers {status}: try again")
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return UsageError(f"the schema registry at {self._url} refuses the credentials")
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            return UsageError(f"the schema registry at {self._url} has moved: give its new URL")
        if status == HTTPStatus.NOT_FOUND or answer is None:
            return UsageError(f"there is no Confluent-compatible API at {self._url}")
        why = shown(answer.get("message", ""))
        return OperatorError(f"the schema registry at {self._url} refuses {path} ({status}): {why}")


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _text(schema: Schema) -> dict[str, str]:
    return {"schema": json.dumps(schema.source)}


def _authorization(access: RegistryAccess) -> dict[str, str]:
    if access.token is not None:
        return {"Authorization": f"Bearer {access.token}"}
    if access.username is not None:
        pair = f"{access.username}:{access.password or ''}".encode()
        return {"Authorization": "Basic " + b64encode(pair).decode()}
    return {}


def _url_flaw(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return "is none"
    if parts.username is not None or parts.password is not None:
        return "holds a user name: that and its password are settings of their own"
    if not url.isprintable() or " " in url or not url.isascii():
        return "has characters that no URL has"
    if parts.scheme not in ("http", "https") or not has_place:
        return "is not of the form http(s)://HOST[:PORT]/PATH"
    if parts.query or parts.fragment:
        return "has to end with its path, without ? and #"
    return None
