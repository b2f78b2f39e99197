"""JSON documents <-> what a destination is: those of the REST API, of the configuration file and of the control topic are the same. Pure.

A document has the fields of `model.Destination`, with times as RFC 3339 and `start_at` also as "beginning" or "now". Who reads gets every
problem at once, with its field. What must not be shown is hidden in what the API answers; sent back hidden, it stays what it was.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from datetime import timedelta
from enum import StrEnum
from functools import cache
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import urlsplit

from schemas import avsc
from schemas.contract import ID_CHARACTERS_MAX, PROGRAM_ID, Problem
from schemas.records import LoyaltyEventKind, NoticeKind
from streams import signatures
from streams.destinations.model import (
    BATCHABLE,
    COALESCABLE,
    Action,
    Bearer,
    Breaker,
    ClientCredentials,
    Destination,
    DestinationState,
    Job,
    OnDeadLetter,
    Scheme,
    Secret,
    State,
    Which,
)
from streams.errors import LoyaltyError
from streams.history import EPOCH, instant_ms
from streams.scheduling import cadence
from streams.signatures import SecretError

E = TypeVar("E", bound=StrEnum)
Document = Mapping[str, Any]

PAYLOAD_VERSIONS = ("1",)
HIDDEN = "********"
"""Stands for what is not shown."""
BEGINNING, NOW, NEVER = "beginning", "now", "never"

EVENT_KINDS = tuple(kind.value for kind in LoyaltyEventKind if kind is not LoyaltyEventKind.UNKNOWN)
NOTICE_KINDS = tuple(kind.value for kind in NoticeKind if kind is not NoticeKind.UNKNOWN)
KINDS = (*EVENT_KINDS, *NOTICE_KINDS)

SECRETS_MAX = 10
URL_CHARACTERS_MAX = 2048
HEADERS_MAX = 32
VALUE_CHARACTERS_MAX = 4096
FILTERS_MAX = 16
NAMES_MAX = 1000
DAY_S = 24 * 3600.0
RETRY_DELAYS_MAX = 30
RETRY_DELAY_MIN_S = 0.05
IDS_MAX = 10_000
IDS_CHARACTERS_MAX = 500_000  # Of all members, or events, of a job together: it is one record of the log.

NUMBERS: Mapping[str, tuple[float, float]] = {
    "timeout_s": (0.1, 60.0),
    "rate_max_per_s": (0.001, 1_000_000.0),
    "give_up_after_s": (1.0, 30 * DAY_S),
    "retry_after_max_s": (0.0, DAY_S),
    "cadence_s": (1.0, DAY_S),
    "disable_after_s": (1.0, 365 * DAY_S),
}
"""Field -> its least and its greatest value."""
WHOLE_NUMBERS: Mapping[str, tuple[int, int]] = {"concurrency_max": (1, 1000), "batch_events_max": (1, 1000)}
DEAD_LETTER_STATUSES = frozenset(range(400, 500)) - {408, 410, 425, 429}
"""Those with a meaning of their own are never the end of an event."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,128}")
HEADER_VALUE = re.compile(r"[!-~](?:[ -~\t]*[!-~])?")
RESERVED_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "authorization"})
RESERVED_PREFIX = "webhook-"
VISIBLE = re.compile(r"[!-~]+")
JOB_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
FIELDS = frozenset({
    "url", "secret", "secrets", "programs", "events", "filters", "payload_version", "headers", "authorization", "timeout_s", "concurrency_max",
    "rate_max_per_s", "retry_delays_s", "give_up_after_s", "retry_after_max_s", "dead_letter_statuses", "on_dead_letter", "breaker",
    "disable_after_s", "cadence_s", "cadence_cron", "cadence_time_zone", "cadence_window", "coalesce", "batch_events_max", "start_at",
})  # fmt: skip
SECRET_FIELDS = frozenset({"secret_id", "secret", "scheme", "public_key", "created_at", "expires_at"})
CREDENTIALS = ("token_url", "client_id", "client_secret", "scope", "audience")
REPLAY_FIELDS = frozenset({"since", "until", "events", "programs", "members", "event_ids", "which", "dry_run", "rate_max_per_s"})


class DocumentError(LoyaltyError):
    """A document says what cannot be; carries all of its problems."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{problem.field}: {problem.detail}" for problem in problems[:10]))


def read_destination(
    name: str, document: Document, *, programs: Collection[str] | None, current: Destination | None = None, now_ms: int = 0, start_at: str = NOW
) -> Destination:
    """The destination in a document. Raises DocumentError with every problem.

    `programs` are those that are known; None: the document was taken before, any may be named, and a cadence may be for nothing. `current` is
    what the document takes the place of: what is hidden in the document stays as it is there, and so do the secrets if the document has none.
    `now_ms` is what "now" means, and when new secrets begin; 0: no secret has expired. `start_at` is where a destination begins that does not say
    it.
    """
    reader = _Reader(document)
    reader.check_fields(FIELDS)
    if not PROGRAM_ID.fullmatch(name):
        reader.problem("ID_INVALID", "name", "must be a slug of a-z, 0-9 and '-', 63 characters at most")
    events = reader.names("events", KINDS)
    found = Destination(
        name=name,
        url=_url(reader, "url"),
        secrets=_secrets(reader, current, now_ms),
        programs=reader.names("programs", programs),
        events=events,
        filters=_filters(reader),
        payload_version=reader.word("payload_version", PAYLOAD_VERSIONS, PAYLOAD_VERSIONS[0]),
        headers=_headers(reader, {} if current is None else current.headers),
        authorization=_authorization(reader, None if current is None else current.authorization),
        retry_delays_s=_retry_delays(reader),
        dead_letter_statuses=_statuses(reader),
        on_dead_letter=reader.choice("on_dead_letter", OnDeadLetter, OnDeadLetter.RELEASE),
        breaker=reader.choice("breaker", Breaker, Breaker.ON),
        disable_after_s=None if reader.value("disable_after_s") == NEVER else _number(reader, "disable_after_s"),
        start_at_ms=_start(reader, current, now_ms, start_at),
        **_cadence(reader, events if programs is not None else frozenset()),
        **{name: _number(reader, name) for name in NUMBERS if name != "disable_after_s"},  # type: ignore[arg-type]
        **{name: reader.whole(name, _DEFAULTS[name], *bounds) for name, bounds in WHOLE_NUMBERS.items()},  # type: ignore[arg-type]
    )
    reader.raise_problems()
    return found


def to_document(destination: Destination) -> dict[str, Any]:
    """What `read_destination` reads, secrets and all."""
    return {
        "url": destination.url,
        "secrets": [
            {"secret_id": one.secret_id, "secret": one.value, "created_at": time_text(one.created_at_ms), "expires_at": _time_or_none(one.expires_at_ms)}
            for one in destination.secrets
        ],
        "programs": sorted(destination.programs),
        "events": sorted(destination.events),
        "filters": {path: sorted(values) for path, values in sorted(destination.filters.items())},
        "payload_version": destination.payload_version,
        "headers": dict(destination.headers),
        "authorization": _shown_authorization(destination.authorization),
        **{name: getattr(destination, name) for name in (*NUMBERS, *WHOLE_NUMBERS)},
        "retry_delays_s": list(destination.retry_delays_s),
        "dead_letter_statuses": sorted(destination.dead_letter_statuses),
        "on_dead_letter": destination.on_dead_letter.value,
        "breaker": destination.breaker.value,
        "disable_after_s": NEVER if destination.disable_after_s is None else destination.disable_after_s,
        "cadence_cron": destination.cadence_cron or None,
        "cadence_time_zone": destination.cadence_time_zone,
        "cadence_window": destination.cadence_window or None,
        "coalesce": destination.coalesce,
        "start_at": BEGINNING if destination.start_at_ms == 0 else time_text(destination.start_at_ms),
    }


def map_secrets(document: Document, change: Callable[[str], str]) -> dict[str, Any]:
    """The document of a destination with each value that must stay secret changed: signing keys, values of headers, credentials.

    What is no document of a destination stays as it is, and is found out by who reads it.
    """
    out = dict(document)
    secrets, headers, authorization = document.get("secrets"), document.get("headers"), document.get("authorization")
    if isinstance(secrets, list):
        out["secrets"] = [_changed(one, ("secret",), change) for one in secrets]
    if isinstance(headers, Mapping):
        out["headers"] = _changed(headers, tuple(headers), change)
    if isinstance(authorization, Mapping):
        out["authorization"] = _changed(authorization, ("bearer", "client_secret"), change)
    return out


def shown(destination: Destination) -> dict[str, Any]:
    """The destination without its secrets: of each its id, scheme and times, and the public key of an ed25519 pair."""
    document = map_secrets(to_document(destination), lambda _: HIDDEN)
    return {
        "name": destination.name,
        "version": destination.version,
        "is_from_file": destination.version == 0,
        "changed_by": destination.changed_by,
        "changed_at": time_text(destination.changed_at_ms),
        **document,
        "secrets": [shown_secret(one) for one in destination.secrets],
    }


def shown_secret(secret: Secret) -> dict[str, Any]:
    """What may be told of a signing key."""
    return {
        "secret_id": secret.secret_id,
        "scheme": secret.scheme.value,
        "public_key": signatures.public_key(secret.value) if secret.scheme is Scheme.ED25519 else None,
        "created_at": time_text(secret.created_at_ms),
        "expires_at": _time_or_none(secret.expires_at_ms),
    }


def secret_id(value: str) -> str:
    """The name of a secret: the same for the same secret, and nothing that helps to guess it."""
    return "sec-" + sha256(value.encode()).hexdigest()[:16]


def read_state(name: str, document: Document) -> DestinationState:
    """Raises DocumentError."""
    reader = _Reader(document)
    found = DestinationState(
        name=name, state=reader.choice("state", State, State.ACTIVE), reason=reader.text("reason"), detail=reader.text("detail"),
        failing_since_ms=reader.time_ms("failing_since"),
    )  # fmt: skip
    reader.raise_problems()
    return found


def state_document(state: DestinationState) -> dict[str, Any]:
    """What `read_state` reads."""
    return {
        "state": state.state.value, "reason": state.reason, "detail": state.detail[:VALUE_CHARACTERS_MAX],
        "failing_since": _time_or_none(state.failing_since_ms),
    }  # fmt: skip


def read_job(job_id: str, document: Document, *, programs: Collection[str] | None = None) -> Job:
    """The job in a document, of the log or of a client. `programs`: see `read_destination`. Raises DocumentError with every problem."""
    reader = _Reader(document)
    reader.check_fields(REPLAY_FIELDS | {"destination", "action", "is_cancelled", "created_by", "created_at"})
    if not JOB_ID.fullmatch(job_id):
        reader.problem("ID_INVALID", "job_id", "must be of a-z, 0-9 and '-', 63 characters at most")
    action = reader.choice("action", Action, Action.REPLAY)
    since_ms, until_ms = reader.time_ms("since"), reader.time_ms("until")
    if action is Action.REPLAY:
        for name, at_ms in (("since", since_ms), ("until", until_ms)):
            if at_ms is None and reader.value(name) is None:
                reader.problem("FIELD_REQUIRED", name, "must be given")
        if since_ms is not None and until_ms is not None and since_ms >= until_ms:
            reader.problem("TIME_INVALID", "until", "must be later than since")
    given_rate = reader.value("rate_max_per_s")
    rate_max_per_s = None if given_rate == "unlimited" else reader.number("rate_max_per_s", _JOB_DEFAULTS["rate_max_per_s"], *NUMBERS["rate_max_per_s"])
    found = Job(
        job_id=job_id, destination=reader.text("destination"), action=action, since_ms=since_ms or 0, until_ms=until_ms or 0,
        events=reader.names("events", EVENT_KINDS), programs=reader.names("programs", programs), members=_ids(reader, "members"),
        event_ids=_ids(reader, "event_ids"), which=reader.choice("which", Which, Which.ALL), is_dry_run=reader.flag("dry_run"),
        rate_max_per_s=rate_max_per_s, is_cancelled=reader.flag("is_cancelled"), created_by=reader.text("created_by"),
        created_at_ms=reader.time_ms("created_at") or 0,
    )  # fmt: skip
    for number, member in enumerate(sorted(found.members)):
        program_id, slash, _ = member.partition("/")
        if not slash or (programs is not None and program_id not in programs):
            reader.problem("ID_INVALID", f"members[{number}]", "must be program_id/member_id, of a programme that is known")
            break
    reader.raise_problems()
    return found


def job_document(job: Job) -> dict[str, Any]:
    """What `read_job` reads."""
    return {
        "destination": job.destination, "action": job.action.value, "since": time_text(job.since_ms), "until": time_text(job.until_ms),
        "events": sorted(job.events), "programs": sorted(job.programs), "members": sorted(job.members), "event_ids": sorted(job.event_ids),
        "which": job.which.value, "dry_run": job.is_dry_run, "rate_max_per_s": "unlimited" if job.rate_max_per_s is None else job.rate_max_per_s,
        "is_cancelled": job.is_cancelled, "created_by": job.created_by, "created_at": time_text(job.created_at_ms),
    }  # fmt: skip


@cache
def filter_fields() -> tuple[str, ...]:
    """Fields of an event's data by which it can be chosen, dotted: "kind", "account.tier", "changed_attributes"."""
    return tuple(_paths(avsc.expanded(avsc.load_all()["LoyaltyEvent"]), ""))


def time_text(at_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return (EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# The fields of a destination.

_DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(Destination)}
_JOB_DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(Job)}


def _number(reader: "_Reader", name: str) -> float | None:
    return reader.number(name, _DEFAULTS[name], *NUMBERS[name])


def _url(reader: "_Reader", name: str) -> str:
    url = reader.text(name, required=True, characters_max=URL_CHARACTERS_MAX)
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and bool(VISIBLE.fullmatch(url))
    except ValueError:
        parts, is_right = urlsplit(""), False
    if url and not is_right:
        reader.problem("URL_INVALID", name, "must be an http:// or https:// URL with a host, without blanks")
    elif parts.username is not None or parts.password is not None:
        reader.problem("URL_INVALID", name, "must not hold a user or a password: that is what `authorization` is for")
    elif "#" in url:
        reader.problem("URL_INVALID", name, "must not hold a fragment, which is never sent")
    return url


def _secrets(reader: "_Reader", current: Destination | None, now_ms: int) -> tuple[Secret, ...]:
    kept = {} if current is None else {one.secret_id: one for one in current.secrets}
    given = reader.items("secrets")
    if reader.value("secret") is not None:
        if given:
            reader.problem("FIELD_NOT_ALLOWED", "secret", "must be left out where secrets are given")
        text = reader.text("secret", required=True)
        if not text:
            return ()
        given, places = [{"secret": text}], ["secret"]
    else:
        places = [f"secrets[{number}]" for number in range(len(given))]
    if not given and kept:
        return tuple(kept.values())
    if not 1 <= len(given) <= SECRETS_MAX:
        reader.problem("FIELD_REQUIRED", "secrets", f"must be 1 to {SECRETS_MAX}")
        return ()
    found = [one for place, value in zip(places, given, strict=True) if (one := _secret(reader, place, value, kept, now_ms)) is not None]
    if len({one.secret_id for one in found}) < len(found):
        reader.problem("VALUE_REPEATED", "secrets", "holds one secret twice")
    if found and all(one.expires_at_ms is not None and one.expires_at_ms <= now_ms for one in found):
        reader.problem("SECRETS_EXPIRED", "secrets", "must hold one that has not expired")
    return tuple(found)


def _secret(reader: "_Reader", place: str, value: Any, kept: Mapping[str, Secret], now_ms: int) -> Secret | None:
    own = reader.inner(place, value)
    own.check_fields(SECRET_FIELDS)
    before = kept.get(own.text("secret_id"))
    text = own.text("secret", "" if before is None else before.value, required=before is None)
    if not text:
        return None
    try:
        signatures.check_secret(text)
    except SecretError as error:
        reader.problem("SECRET_INVALID", place if place == "secret" else f"{place}.secret", str(error))
        return None
    created_at_ms, expires_at_ms = own.time_ms("created_at"), own.time_ms("expires_at")
    if before is not None and before.value == text:
        created_at_ms = before.created_at_ms
    return Secret(
        secret_id=secret_id(text), value=text, created_at_ms=now_ms if created_at_ms is None else created_at_ms, expires_at_ms=expires_at_ms
    )


def _filters(reader: "_Reader") -> dict[str, frozenset[str]]:
    given = reader.object("filters")
    if len(given) > FILTERS_MAX:
        reader.problem("ITEMS_INVALID", "filters", f"must be {FILTERS_MAX} at most")
        return {}
    found, own = {}, reader.inner("filters", given)
    for path in given:
        if path not in filter_fields():
            own.problem("FIELD_UNKNOWN", path[:64], f"is not a field of an event; known are {', '.join(filter_fields())}")
            continue
        values = own.texts(path)
        if given[path] in ([], None):
            own.problem("ITEMS_INVALID", path, "must be a list of one text at least")
        found[path] = values
    return found


def _headers(reader: "_Reader", current: Mapping[str, str]) -> dict[str, str]:
    given = reader.object("headers")
    if len(given) > HEADERS_MAX:
        reader.problem("ITEMS_INVALID", "headers", f"must be {HEADERS_MAX} at most")
        return {}
    found: dict[str, str] = {}
    own = reader.inner("headers", given)
    for name in given:
        lower, shown_name = name.lower(), name[:64]
        if not HEADER_NAME.fullmatch(lower):
            own.problem("HEADER_INVALID", shown_name, "is no name of a header")
            continue
        if lower in RESERVED_HEADERS or lower.startswith(RESERVED_PREFIX):
            advice = "it is what `authorization` is for" if lower == "authorization" else "each delivery has its own"
            own.problem("HEADER_RESERVED", shown_name, f"must not be set: {advice}")
        if lower in found:
            own.problem("VALUE_REPEATED", shown_name, "stands there twice, in letters of another case")
        value = own.hidden(name, current.get(lower), characters_max=VALUE_CHARACTERS_MAX)
        if value and not HEADER_VALUE.fullmatch(value):
            own.problem("HEADER_INVALID", shown_name, "must be visible ASCII, with blanks only inside")
        found[lower] = value
    return found


def _authorization(reader: "_Reader", current: Bearer | ClientCredentials | None) -> Bearer | ClientCredentials | None:
    given = reader.object("authorization")
    if not given:
        return None
    own = reader.inner("authorization", given)
    if "bearer" in given:
        own.check_fields({"bearer"})
        token = own.hidden("bearer", current.token if isinstance(current, Bearer) else None, characters_max=VALUE_CHARACTERS_MAX)
        if token and not VISIBLE.fullmatch(token):
            own.problem("VALUE_INVALID", "bearer", "must be visible ASCII without blanks")
        return Bearer(token=token)
    own.check_fields({*CREDENTIALS, "bearer"})
    return ClientCredentials(
        token_url=_url(own, "token_url"),
        client_id=own.text("client_id", required=True),
        client_secret=own.hidden("client_secret", current.client_secret if isinstance(current, ClientCredentials) else None),
        scope=own.text("scope"),
        audience=own.text("audience"),
    )


def _shown_authorization(authorization: Bearer | ClientCredentials | None) -> dict[str, str] | None:
    match authorization:
        case None:
            return None
        case Bearer():
            return {"bearer": authorization.token}
        case ClientCredentials():
            return {name: getattr(authorization, name) for name in CREDENTIALS}


def _retry_delays(reader: "_Reader") -> tuple[float, ...]:
    given = reader.items("retry_delays_s")
    if not all(_is_number(one) and RETRY_DELAY_MIN_S <= one <= DAY_S for one in given) or len(given) > RETRY_DELAYS_MAX:
        reader.problem("ITEMS_INVALID", "retry_delays_s", f"must be {RETRY_DELAYS_MAX} numbers at most, each from {RETRY_DELAY_MIN_S} to {DAY_S:.0f}")
        return ()
    return tuple(map(float, given))


def _statuses(reader: "_Reader") -> frozenset[int]:
    given = reader.items("dead_letter_statuses")
    if not all(type(one) is int and one in DEAD_LETTER_STATUSES for one in given):
        reader.problem("ITEMS_INVALID", "dead_letter_statuses", "must be numbers from 400 to 499 other than 408, 410, 425 and 429")
        return frozenset()
    return frozenset(given)


def _cadence(reader: "_Reader", events: Collection[str]) -> dict[str, Any]:
    """What says when batches go out, but for `cadence_s`. It must be for one of the `events`, if there are any."""
    found = {name: reader.text(f"cadence_{name}", default) for name, default in (("time_zone", "UTC"), ("cron", ""), ("window", ""))}
    checked = cadence.REALTIME
    for name, text in found.items():  # A cron line is one of its time zone.
        if text:
            part: dict[str, Any] = {name: text}
            try:
                checked = cadence.make(default=checked, **part) if name != "window" else replace(checked, window=cadence.window_of(text))
            except ValueError as error:
                reader.problem("VALUE_INVALID", f"cadence_{name}", str(error).removeprefix(f"{name} "))
    given = [name for name in ("cadence_s", "cadence_cron") if reader.value(name) not in (None, "")]
    if len(given) > 1:
        reader.problem("FIELD_NOT_ALLOWED", "cadence_cron", "must be left out where cadence_s is given")
    coalesces = reader.flag("coalesce")
    for name, is_given in (("cadence_window", bool(found["window"])), ("coalesce", coalesces)):
        if is_given and not given:
            reader.problem("FIELD_NOT_ALLOWED", name, "needs cadence_s or cadence_cron: what is sent at once waits for nothing")
    for name, kinds, is_given, what in (
        (given[0] if given else "", BATCHABLE, bool(given), "go out at once always"), ("coalesce", COALESCABLE, coalesces, "tell what happened, each"),
    ):  # fmt: skip
        if is_given and events and kinds.isdisjoint(events):
            reader.problem("VALUE_INVALID", name, f"is nothing for {', '.join(sorted(events))}, which {what}; it is for {', '.join(sorted(kinds))}")
            break
    cron = " ".join(found["cron"].split())
    return {"cadence_time_zone": found["time_zone"], "cadence_cron": cron, "cadence_window": found["window"], "coalesce": coalesces}


def _start(reader: "_Reader", current: Destination | None, now_ms: int, default: str) -> int:
    given = reader.value("start_at")
    if given is None and current is not None:
        return current.start_at_ms
    given = default if given is None else given
    at_ms = {BEGINNING: 0, NOW: now_ms}.get(given) if isinstance(given, str) else None
    if at_ms is None:
        at_ms = reader.time_ms("start_at", also=f'"{BEGINNING}", "{NOW}" or ') or 0
    if current is not None and at_ms != current.start_at_ms:
        reader.problem("FIELD_FIXED", "start_at", "cannot change any more: a replay sends what was before")
    return at_ms


def _ids(reader: "_Reader", name: str) -> frozenset[str]:
    found = reader.texts(name, items_max=IDS_MAX, characters_max=2 * ID_CHARACTERS_MAX)
    if sum(map(len, found)) > IDS_CHARACTERS_MAX:
        reader.problem("ITEMS_INVALID", name, f"must have {IDS_CHARACTERS_MAX} characters together at most")
    return found


def _paths(schema: Any, place: str) -> list[str]:
    """Dotted names of all single values below a record."""
    found = []
    for one in schema["fields"]:
        avro = one["type"]
        avro = next(branch for branch in avro if branch != "null") if isinstance(avro, list) else avro
        avro = avro["items"] if isinstance(avro, dict) and avro["type"] == "array" else avro
        here = f"{place}{one['name'].removesuffix('_ms')}"
        found += _paths(avro, f"{here}.") if isinstance(avro, dict) and avro["type"] == "record" else [here]
    return found


def _changed(value: Any, names: Collection[str], change: Callable[[str], str]) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: change(inner) if name in names and isinstance(inner, str) else inner for name, inner in value.items()}


def _time_or_none(at_ms: int | None) -> str | None:
    return None if at_ms is None else time_text(at_ms)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


class _Reader:
    """Typed access to an object that collects problems instead of raising at the first. A field that is null is a field that is absent."""

    def __init__(self, document: Document, place: str = "", problems: list[Problem] | None = None) -> None:
        self._document = document
        self._place = place
        self._problems: list[Problem] = [] if problems is None else problems

    def problem(self, reason: str, name: str, detail: str) -> None:
        self._problems.append(Problem(reason, f"{self._place}.{name}" if self._place else name, detail))

    def raise_problems(self) -> None:
        if self._problems:
            raise DocumentError(*self._problems)

    def inner(self, place: str, value: Any) -> "_Reader":
        """A reader of a part."""
        if isinstance(value, Mapping):
            return _Reader(value, f"{self._place}.{place}" if self._place else place, self._problems)
        self.problem("TYPE_INVALID", place, "must be an object")
        return _Reader({}, place, [])

    def check_fields(self, known: Collection[str]) -> None:
        for name in self._document:
            if name not in known:
                self.problem("FIELD_UNKNOWN", name[:64], f"is not known here; known are {', '.join(sorted(known))}")

    def value(self, name: str) -> Any:
        return self._document.get(name)

    def _typed(self, name: str, kind: type, what: str, default: Any) -> Any:
        given = self._document.get(name)
        if given is None:
            return default
        if not isinstance(given, kind):
            self.problem("TYPE_INVALID", name, f"must be {what}")
            return default
        return given

    def items(self, name: str) -> list[Any]:
        found: list[Any] = self._typed(name, list, "a list", [])
        return found

    def object(self, name: str) -> Document:
        found: Document = self._typed(name, Mapping, "an object", {})
        return found

    def flag(self, name: str) -> bool:
        return bool(self._typed(name, bool, "true or false", False))

    def text(self, name: str, default: str = "", *, required: bool = False, characters_max: int = VALUE_CHARACTERS_MAX) -> str:
        given: str = self._typed(name, str, "a text", default)
        if required and not given and (self.value(name) is None or self.value(name) == ""):
            self.problem("FIELD_REQUIRED", name, "must be given")
        if len(given) > characters_max:
            self.problem("TEXT_TOO_LONG", name, f"must have {characters_max} characters at most")
        return given

    def hidden(self, name: str, current: str | None, *, characters_max: int = VALUE_CHARACTERS_MAX) -> str:
        """A text that answers hide; hidden it stays what it is."""
        given = self.text(name, required=True, characters_max=characters_max)
        if given == HIDDEN and current is None:
            self.problem("VALUE_INVALID", name, "is hidden, and nothing is there that it could stand for")
        return current if given == HIDDEN and current is not None else given

    def number(self, name: str, default: float | None, lowest: float, highest: float) -> float | None:
        given = self.value(name)
        if given is None:
            return default
        if not (_is_number(given) and lowest <= given <= highest):
            self.problem("NUMBER_INVALID", name, f"must be a number from {lowest:g} to {highest:.10g}")
            return default
        return float(given)

    def whole(self, name: str, default: int, lowest: int, highest: int) -> int:
        given = self.value(name)
        if given is None:
            return default
        if not (type(given) is int and lowest <= given <= highest):
            self.problem("NUMBER_INVALID", name, f"must be a whole number from {lowest} to {highest}")
            return default
        return given

    def word(self, name: str, words: Collection[str], default: str) -> str:
        given: str = self._typed(name, str, "a text", default)
        if given not in words:
            self.problem("VALUE_UNKNOWN", name, f"must be one of {', '.join(words)}")
            return default
        return given

    def choice(self, name: str, options: type[E], default: E) -> E:
        return options(self.word(name, [one.value for one in options], default.value))

    def names(self, name: str, known: Collection[str] | None) -> frozenset[str]:
        """Texts that must be known; None: any."""
        found = self.texts(name)
        unknown = sorted(found - set(known)) if known is not None else []
        for one in unknown:
            self.problem("VALUE_UNKNOWN", name, f"names {one[:64]!r}, which is none of {', '.join(known or ())}")
        return found

    def texts(self, name: str, *, items_max: int = NAMES_MAX, characters_max: int = 2 * ID_CHARACTERS_MAX) -> frozenset[str]:
        given = self.items(name)
        if len(given) > items_max or not all(isinstance(one, str) and 1 <= len(one) <= characters_max for one in given):
            self.problem("ITEMS_INVALID", name, f"must be {items_max} texts at most, each of 1 to {characters_max} characters")
            return frozenset()
        return frozenset(given)

    def time_ms(self, name: str, *, also: str = "") -> int | None:
        given = self.value(name)
        if given is None:
            return None
        try:
            return instant_ms(given)
        except (TypeError, ValueError):
            self.problem("TIME_INVALID", name, f"must be {also}RFC 3339 with an offset, or a day, between 1970 and 2100")
            return None
