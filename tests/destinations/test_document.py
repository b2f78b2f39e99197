"""Documents of destinations: every bound at its edge, all problems at once, and the same destination back; secrets hidden, and kept when hidden."""

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import Problem
from streams import configuration, signatures
from streams.destinations import document
from streams.destinations.document import DocumentError
from streams.destinations.model import (
    Action,
    Bearer,
    Breaker,
    ClientCredentials,
    Destination,
    DestinationState,
    Job,
    OnDeadLetter,
    Secret,
    State,
    Which,
)

PROGRAMS = ("grand", "staff")
NOW_MS = 1_795_600_000_000
SECRET = "whsec_" + b64encode(b"0123456789abcdef0123456789abcdef").decode()
OTHER = "whsec_" + b64encode(b"fedcba9876543210fedcba9876543210").decode()
PAIR = "whsk_" + b64encode(bytes(range(32))).decode()
LEAST: dict[str, Any] = {"url": "https://crm.example.com/hooks", "secret": SECRET}


def read(changes: dict[str, Any] | None = None, current: Destination | None = None, name: str = "crm", start_at: str = "now") -> Destination:
    given = {key: value for key, value in {**LEAST, **(changes or {})}.items() if value != "ABSENT"}
    return document.read_destination(name, given, programs=PROGRAMS, current=current, now_ms=NOW_MS, start_at=start_at)


def problems(changes: dict[str, Any], current: Destination | None = None, name: str = "crm") -> tuple[Problem, ...]:
    with pytest.raises(DocumentError) as caught:
        read(changes, current, name)
    return caught.value.problems


def test_what_is_not_said_has_the_defaults_of_the_model() -> None:
    found = read()
    secret = Secret(secret_id=document.secret_id(SECRET), value=SECRET, created_at_ms=NOW_MS)
    assert found == Destination(name="crm", url=LEAST["url"], secrets=(secret,), start_at_ms=NOW_MS)


ACCEPTED: list[tuple[str, Any, Any]] = [
    ("url", "http://crm.internal:8080/x?y=z", "http://crm.internal:8080/x?y=z"),
    ("programs", ["staff"], frozenset({"staff"})),
    ("events", ["TIER_CHANGED", "DELIVERY_BLOCKED"], frozenset({"TIER_CHANGED", "DELIVERY_BLOCKED"})),
    ("filters", {"account.tier": ["GOLD"], "lots.lot_id": ["x"]}, {"account.tier": frozenset({"GOLD"}), "lots.lot_id": frozenset({"x"})}),
    ("headers", {"X-Api-Key": "a b"}, {"x-api-key": "a b"}),
    ("authorization", {"bearer": "t"}, Bearer(token="t")),
    ("timeout_s", 0.1, 0.1),
    ("timeout_s", 60, 60.0),
    ("concurrency_max", 1, 1),
    ("concurrency_max", 1000, 1000),
    ("rate_max_per_s", 0.001, 0.001),
    ("retry_delays_s", [0.05, 86400], (0.05, 86400.0)),
    ("retry_delays_s", [1] * 30, (1.0,) * 30),
    ("give_up_after_s", 1, 1.0),
    ("give_up_after_s", 30 * 86400, 30 * 86400.0),
    ("retry_after_max_s", 0, 0.0),
    ("retry_after_max_s", 86400, 86400.0),
    ("dead_letter_statuses", [400, 499], frozenset({400, 499})),
    ("on_dead_letter", "BLOCK", OnDeadLetter.BLOCK),
    ("breaker", "OBSERVE", Breaker.OBSERVE),
    ("disable_after_s", "never", None),
    ("disable_after_s", 365 * 86400, 365 * 86400.0),
    ("cadence_s", 1, 1.0),
    ("cadence_s", 86400, 86400.0),
    ("cadence_cron", " 0 2  * * 1-5", "0 2 * * 1-5"),
    ("cadence_time_zone", "Europe/Berlin", "Europe/Berlin"),
    ("batch_events_max", 1, 1),
    ("batch_events_max", 1000, 1000),
]


@pytest.mark.parametrize(("name", "value", "expected"), ACCEPTED, ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(ACCEPTED)])
def test_what_is_within_the_bounds_is_taken(name: str, value: Any, expected: Any) -> None:
    assert getattr(read({name: value}), name) == expected


@pytest.mark.parametrize(("start_at", "expected_ms"), [("beginning", 0), ("now", NOW_MS), ("1970-01-01T00:00:01+00:00", 1000), ("ABSENT", NOW_MS)])
def test_where_it_begins(start_at: str, expected_ms: int) -> None:
    assert read({"start_at": start_at}).start_at_ms == expected_ms


REFUSED: list[tuple[str, Any, str]] = [
    ("url", "ABSENT", "url"),
    ("url", 7, "url"),
    ("url", "ftp://crm.example.com", "url"),
    ("url", "https://", "url"),
    ("url", "https://[::1", "url"),
    ("url", "https://crm.example.com:99999/", "url"),
    ("url", "https://crm.example.com:0/", "url"),
    ("url", "https://user@crm.example.com/", "url"),
    ("url", "https://:password@crm.example.com/", "url"),
    ("url", "https://crm.example.com/#", "url"),
    ("url", "https://crm.example.com/a b", "url"),
    ("url", "https://crm.example.com/" + "a" * 2048, "url"),
    ("secret", "ABSENT", "secrets"),
    ("secret", "", "secret"),
    ("secret", "whsec_AAAA", "secret"),
    ("secret", 7, "secret"),
    ("secrets", [{"secret": OTHER}], "secret"),
    ("programs", ["other"], "programs"),
    ("programs", "grand", "programs"),
    ("events", ["UNKNOWN"], "events"),
    ("events", [7], "events"),
    ("filters", {"account.colour": ["red"]}, "filters.account.colour"),
    ("filters", {"account": ["red"]}, "filters.account"),
    ("filters", {"account.tier": []}, "filters.account.tier"),
    ("filters", {"account.tier": "GOLD"}, "filters.account.tier"),
    ("payload_version", "2", "payload_version"),
    *(
        ("headers", {name: "x"}, f"headers.{name}")
        for name in ("Host", "content-length", "Content-Type", "transfer-encoding", "connection", "Authorization", "webhook-id", "a b", "")
    ),
    ("headers", {"x-a": "line\r\nbreak"}, "headers.x-a"),
    ("headers", {"x-a": " x"}, "headers.x-a"),
    ("headers", {"x-a": "ö"}, "headers.x-a"),
    ("headers", {"x-a": "1", "X-A": "2"}, "headers.X-A"),
    ("headers", {f"x-{number}": "x" for number in range(33)}, "headers"),
    ("headers", {"x-a": "********"}, "headers.x-a"),
    ("authorization", {"bearer": "a b"}, "authorization.bearer"),
    ("authorization", {"bearer": "x", "scope": "y"}, "authorization.scope"),
    ("authorization", {"token_url": "https://id.example.com", "client_id": "x"}, "authorization.client_secret"),
    ("authorization", {"token_url": "id.example.com", "client_id": "x", "client_secret": "y"}, "authorization.token_url"),
    ("authorization", "Bearer x", "authorization"),
    ("timeout_s", 0.09, "timeout_s"),
    ("timeout_s", 60.1, "timeout_s"),
    ("timeout_s", True, "timeout_s"),
    ("timeout_s", float("nan"), "timeout_s"),
    ("concurrency_max", 0, "concurrency_max"),
    ("concurrency_max", 1001, "concurrency_max"),
    ("concurrency_max", 1.0, "concurrency_max"),
    ("rate_max_per_s", 0, "rate_max_per_s"),
    ("retry_delays_s", [1] * 31, "retry_delays_s"),
    ("retry_delays_s", [0.04], "retry_delays_s"),
    ("retry_delays_s", [86401], "retry_delays_s"),
    ("retry_delays_s", ["1"], "retry_delays_s"),
    ("give_up_after_s", 0.9, "give_up_after_s"),
    ("give_up_after_s", 30 * 86400 + 1, "give_up_after_s"),
    ("retry_after_max_s", -1, "retry_after_max_s"),
    *(("dead_letter_statuses", [status], "dead_letter_statuses") for status in (399, 408, 410, 425, 429, 500, "404")),
    ("on_dead_letter", "DROP", "on_dead_letter"),
    ("breaker", "on", "breaker"),
    ("disable_after_s", 0, "disable_after_s"),
    ("disable_after_s", "soon", "disable_after_s"),
    ("cadence_s", 0.9, "cadence_s"),
    ("cadence_s", 86401, "cadence_s"),
    ("cadence_cron", "0 2 * *", "cadence_cron"),
    ("cadence_cron", "0 25 * * *", "cadence_cron"),
    ("cadence_cron", 2, "cadence_cron"),
    ("cadence_time_zone", "Berlin", "cadence_time_zone"),
    ("cadence_window", "22:00-05:00", "cadence_window"),
    ("coalesce", True, "coalesce"),
    ("coalesce", "yes", "coalesce"),
    ("batch_events_max", 0, "batch_events_max"),
    ("batch_events_max", 1001, "batch_events_max"),
    ("start_at", "yesterday", "start_at"),
    ("start_at", 7, "start_at"),
    ("colour", "red", "colour"),
]


@pytest.mark.parametrize(("name", "value", "place"), REFUSED, ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(REFUSED)])
def test_what_is_beyond_the_bounds_is_refused_at_its_place(name: str, value: Any, place: str) -> None:
    assert [problem.field for problem in problems({name: value})] == [place]


@pytest.mark.parametrize(("changes", "place", "words"), [
    ({"cadence_s": 60, "cadence_cron": "0 2 * * *"}, "cadence_cron", ("cadence_s",)),
    ({"cadence_s": 60, "cadence_window": "22:00"}, "cadence_window", ("22:00-05:00",)),
    ({"cadence_s": 60, "cadence_window": "22:00-22:00"}, "cadence_window", ("empty",)),
    ({"cadence_s": 60, "events": ["BALANCE_CHANGED", "ACCOUNT_SUSPENDED"]}, "cadence_s", ("ACCOUNT_SUSPENDED, BALANCE_CHANGED", "at once", "PROFILE_CHANGED")),
    ({"cadence_cron": "0 2 * * *", "events": ["TIER_CHANGED"]}, "cadence_cron", ("TIER_CHANGED", "at once")),
    ({"cadence_s": 60, "coalesce": True, "events": ["MEMBER_ENROLLED"]}, "coalesce", ("MEMBER_ENROLLED", "PROFILE_CHANGED")),
], ids=["two", "no-window", "empty-window", "at-once", "at-once-cron", "coalesce"])  # fmt: skip
def test_a_cadence_is_one_and_for_something(changes: dict[str, Any], place: str, words: tuple[str, ...]) -> None:
    (problem,) = problems(changes)
    assert problem.field == place and all(word in problem.detail for word in words)


def test_a_document_that_was_taken_before_is_read_whatever_its_cadence_is_for() -> None:
    assert document.read_destination("crm", LEAST | {"cadence_s": 60, "events": ["TIER_CHANGED"]}, programs=None).cadence_s == 60.0


@pytest.mark.parametrize(("changes", "shown"), [
    ({}, None),
    ({"cadence_s": 90}, "every 90s"),
    ({"cadence_cron": "0 2 * * *", "cadence_time_zone": "Europe/Berlin", "cadence_window": "01:00-05:00"}, "cron 0 2 * * * Europe/Berlin, 01:00-05:00"),
], ids=["none", "every", "cron"])  # fmt: skip
def test_what_a_cadence_is(changes: dict[str, Any], shown: str | None) -> None:
    cadence = read(changes).cadence
    assert (None if cadence is None else str(cadence)) == shown


@pytest.mark.parametrize("name", ["", "CRM", "c_rm", "-crm", "c" * 64, "crm#batch"])
def test_a_name_is_a_slug(name: str) -> None:
    assert [problem.field for problem in problems({}, name=name)] == ["name"]


def test_all_problems_come_at_once_and_tell_no_secret() -> None:
    found = problems({"secret": "whsec_hunter2", "timeout_s": 0, "breaker": "x", "headers": {"host": "hunter2"}, "authorization": {"bearer": "hunter2 "}})
    assert {problem.field for problem in found} == {"secret", "timeout_s", "breaker", "headers.host", "authorization.bearer"}
    assert "hunter2" not in str(found)


# Secrets.


def test_several_secrets_have_times_of_their_own() -> None:
    found = read({"secret": "ABSENT", "secrets": [{"secret": SECRET, "expires_at": "2026-12-01"}, {"secret": PAIR, "created_at": "2026-01-01"}]})
    assert [(one.value, one.expires_at_ms) for one in found.secrets] == [(SECRET, 1_796_083_200_000), (PAIR, None)]
    assert found.secrets[1].created_at_ms == 1_767_225_600_000


@pytest.mark.parametrize(
    ("secrets", "place"),
    [
        ([{"secret": SECRET}, {"secret": SECRET}], "secrets"),
        ([{"secret": SECRET, "expires_at": "2026-01-01"}], "secrets"),
        ([{"secret_id": "sec-0000000000000000"}], "secrets[0].secret"),
        ([{"secret": SECRET, "colour": "red"}], "secrets[0].colour"),
        ([{"secret": SECRET, "expires_at": "soon"}], "secrets[0].expires_at"),
        (["x"], "secrets[0]"),
        ([{"secret": f"whsec_{b64encode(bytes([n]) * 32).decode()}"} for n in range(11)], "secrets"),
    ],
    ids=["twice", "expired", "unknown-id", "unknown-field", "no-time", "no-object", "too-many"],
)
def test_secrets_that_cannot_be(secrets: Any, place: str) -> None:
    assert [problem.field for problem in problems({"secret": "ABSENT", "secrets": secrets})] == [place]


CURRENT = Destination(
    name="crm", url="https://old.example.com/", start_at_ms=1000, version=4, headers={"x-key": "hunter2"}, authorization=Bearer(token="hunter2"),
    secrets=(Secret(secret_id=document.secret_id(SECRET), value=SECRET, created_at_ms=5), Secret(secret_id=document.secret_id(PAIR), value=PAIR)),
)  # fmt: skip


def test_what_is_shown_has_no_secret_but_public_keys() -> None:
    shown = document.shown(CURRENT)
    assert SECRET not in json.dumps(shown) and PAIR not in json.dumps(shown) and "hunter2" not in json.dumps(shown)
    assert [one["public_key"] for one in shown["secrets"]] == [None, signatures.public_key(PAIR)]
    assert (shown["headers"], shown["authorization"]) == ({"x-key": document.HIDDEN}, {"bearer": document.HIDDEN})


def test_what_is_sent_back_hidden_stays_what_it_was() -> None:
    shown = {key: value for key, value in document.shown(CURRENT).items() if key in document.FIELDS}
    assert replace(read({**shown, "secret": "ABSENT"}, CURRENT), version=4) == CURRENT


def test_without_secrets_those_that_are_there_stay_and_so_does_the_beginning() -> None:
    found = read({"secret": "ABSENT"}, CURRENT)
    assert (found.secrets, found.start_at_ms, found.headers, found.authorization) == (CURRENT.secrets, 1000, {}, None)


def test_the_beginning_does_not_move() -> None:
    assert [problem.field for problem in problems({"start_at": "beginning"}, CURRENT)] == ["start_at"]


def test_each_secret_is_changed_and_nothing_else() -> None:
    credentials = ClientCredentials(token_url="https://id.example.com", client_id="me", client_secret="hunter2", scope="s")
    for one in (CURRENT, replace(CURRENT, authorization=credentials)):
        whole = document.to_document(one)
        sealed = document.map_secrets(whole, lambda text: f"<{text}>")
        assert SECRET not in json.dumps(document.map_secrets(whole, lambda _: "x")) and "hunter2" not in json.dumps(document.map_secrets(whole, lambda _: "x"))
        assert document.map_secrets(sealed, lambda text: text[1:-1]) == whole


# Round trips.

TEXTS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20).filter(lambda text: text != document.HIDDEN)
KINDS = st.frozensets(st.sampled_from(document.KINDS), max_size=4)
TIMES = st.integers(0, 4_000_000_000_000)


def some(bounds: tuple[float, float]) -> st.SearchStrategy[float]:
    return st.floats(*bounds, allow_nan=False)


SECRETS = st.lists(
    st.builds(
        lambda key, created_at_ms, expires_at_ms: Secret(
            secret_id=document.secret_id(key), value=key, created_at_ms=created_at_ms, expires_at_ms=expires_at_ms
        ),
        st.binary(min_size=24, max_size=64).map(lambda key: "whsec_" + b64encode(key).decode()), TIMES, st.none() | st.integers(1, 4_000_000_000_000),
    ),
    min_size=1, max_size=3, unique_by=lambda one: one.secret_id,
).map(tuple)  # fmt: skip
DESTINATIONS = st.builds(
    Destination,
    name=st.just("crm"),
    url=st.just("https://crm.example.com/"),
    secrets=SECRETS,
    programs=st.frozensets(st.sampled_from(PROGRAMS)),
    events=KINDS,
    filters=st.dictionaries(st.sampled_from(document.filter_fields()), st.frozensets(st.text(min_size=1, max_size=9), min_size=1, max_size=3), max_size=3),
    headers=st.dictionaries(st.sampled_from(["x-a", "x-b", "accept"]), TEXTS),
    authorization=st.none() | st.builds(Bearer, token=TEXTS) | st.builds(
        ClientCredentials, token_url=st.just("https://id.example.com"), client_id=TEXTS, client_secret=TEXTS, scope=st.just("") | TEXTS,
        audience=st.just("") | TEXTS,
    ),
    timeout_s=some(document.NUMBERS["timeout_s"]),
    concurrency_max=st.integers(1, 1000),
    rate_max_per_s=st.none() | some(document.NUMBERS["rate_max_per_s"]),
    retry_delays_s=st.lists(some((0.05, 86400.0)), max_size=30).map(tuple),
    give_up_after_s=some(document.NUMBERS["give_up_after_s"]),
    retry_after_max_s=some(document.NUMBERS["retry_after_max_s"]),
    dead_letter_statuses=st.frozensets(st.sampled_from(sorted(document.DEAD_LETTER_STATUSES))),
    on_dead_letter=st.sampled_from(OnDeadLetter),
    breaker=st.sampled_from(Breaker),
    disable_after_s=st.none() | some(document.NUMBERS["disable_after_s"]),
    cadence_s=st.just(60.0),
    cadence_time_zone=st.sampled_from(["UTC", "Europe/Berlin"]),
    cadence_window=st.sampled_from(["", "22:00-05:00"]),
    coalesce=st.booleans(),
    batch_events_max=st.integers(1, 1000),
    start_at_ms=TIMES,
)  # fmt: skip


@given(DESTINATIONS, st.none() | some(document.NUMBERS["cadence_s"]) | st.sampled_from(["0 2 * * *", "*/5 8-20 * * 1-5"]))
def test_a_destination_is_its_document(destination: Destination, cadence: float | str | None) -> None:
    if cadence is None:
        destination = replace(destination, cadence_s=None, cadence_window="", coalesce=False)
    else:
        destination = replace(destination, **({"cadence_s": None, "cadence_cron": cadence} if isinstance(cadence, str) else {"cadence_s": cadence}))
    content = json.loads(json.dumps(document.to_document(destination)))
    assert document.read_destination("crm", content, programs=None) == destination


@given(st.builds(DestinationState, name=st.just("crm"), state=st.sampled_from(State), reason=TEXTS, detail=TEXTS, failing_since_ms=st.none() | TIMES))
def test_a_state_is_its_document(state: DestinationState) -> None:
    assert document.read_state("crm", json.loads(json.dumps(document.state_document(state)))) == state


@given(
    st.builds(
        Job, job_id=st.just("replay-1"), destination=st.just("crm"), action=st.sampled_from(Action), since_ms=st.integers(0, 10**12),
        until_ms=st.integers(10**12 + 1, 10**12 + 9), events=st.frozensets(st.sampled_from(document.EVENT_KINDS), max_size=3),
        programs=st.frozensets(st.sampled_from(PROGRAMS)), members=st.frozensets(TEXTS.map(lambda text: f"grand/{text}"), max_size=3),
        event_ids=st.frozensets(TEXTS, max_size=3), which=st.sampled_from(Which), is_dry_run=st.booleans(),
        rate_max_per_s=st.none() | some(document.NUMBERS["rate_max_per_s"]), is_cancelled=st.booleans(), created_by=TEXTS, created_at_ms=TIMES,
    )
)  # fmt: skip
def test_a_job_is_its_document(job: Job) -> None:
    assert document.read_job("replay-1", json.loads(json.dumps(document.job_document(job))), programs=PROGRAMS) == job


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"since": None}, "since"),
        ({"until": None}, "until"),
        ({"since": "2026-11-26"}, "until"),
        ({"since": "soon"}, "since"),
        ({"events": ["DELIVERY_BLOCKED"]}, "events"),
        ({"programs": ["other"]}, "programs"),
        ({"members": ["M-1"]}, "members[0]"),
        ({"members": ["other/M-1"]}, "members[0]"),
        ({"members": "grand/M-1"}, "members"),
        ({"event_ids": ["x" * 200 for _ in range(10_001)]}, "event_ids"),
        ({"which": "SOME"}, "which"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"rate_max_per_s": 0}, "rate_max_per_s"),
        ({"colour": "red"}, "colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_jobs_that_cannot_be(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(DocumentError) as caught:
        document.read_job("replay-1", {"since": "2026-11-24", "until": "2026-11-25", **changes}, programs=PROGRAMS)
    assert [problem.field for problem in caught.value.problems] == [place]


# The configuration file.


def parse(destination: dict[str, Any], folder: Any = None) -> Destination:
    program = {"earn": {"points_per_unit": {"EUR": 10}}, "tiers": [{"name": "MEMBER", "threshold_points": 0}]}
    options = {} if folder is None else {"folder": folder}
    return configuration.parse({"programs": {"grand": program}, "destinations": {"crm": destination}}, **options).destinations["crm"]


def test_a_table_of_the_file_is_such_a_document_that_begins_at_the_beginning() -> None:
    found = parse({**LEAST, "timeout_s": 2, "concurrency_max": 16, "programs": ["grand"], "events": ["TIER_CHANGED"]})
    assert (found.timeout_s, found.concurrency_max, found.start_at_ms, found.version) == (2.0, 16, 0, 0)
    assert [one.value for one in found.secrets] == [SECRET]


def test_its_secrets_may_be_in_files(tmp_path: Any) -> None:
    for name, text in (("one", SECRET), ("two", PAIR), ("token", "t")):
        (tmp_path / name).write_text(f"{text}\n")
    secrets = [{"secret_file": "one"}, {"secret_file": "two"}]
    found = parse({"url": LEAST["url"], "secrets": secrets, "authorization": {"bearer_file": "token"}}, tmp_path)
    assert ([one.value for one in found.secrets], found.authorization) == ([SECRET, PAIR], Bearer(token="t"))


def test_its_problems_have_their_places(tmp_path: Any) -> None:
    with pytest.raises(configuration.ConfigurationError) as caught:
        parse({"url": "x", "secrets": [{"secret_file": "absent"}], "timeout_s": 0, "filters": {"x": ["y"]}}, tmp_path)
    places = sorted(problem.split(" ")[0] for problem in caught.value.problems)
    assert places == ["destinations.crm.filters.x", "destinations.crm.secrets[0].secret", "destinations.crm.secrets[0].secret_file",
                      "destinations.crm.timeout_s", "destinations.crm.url"]  # fmt: skip
