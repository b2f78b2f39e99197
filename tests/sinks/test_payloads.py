"""What goes out, byte by byte, in every payload version."""

import json
import os
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.records import AccountSnapshot, Cause, DeliveryNotice, LotPart, LoyaltyEvent, LoyaltyEventKind, NoticeKind
from sinks import payloads
from streams.destinations.document import PAYLOAD_VERSIONS
from tests.sinks.examples import EVERY_KIND, MOMENT_MS, event

GOLDEN = Path(__file__).parent / "golden"
BALANCE = EVERY_KIND[LoyaltyEventKind.BALANCE_CHANGED]
BATCHED = (LoyaltyEventKind.PROFILE_CHANGED, LoyaltyEventKind.OFFER_ACTIVATED)


def notice(kind: NoticeKind, reason: str, detail: str, **about: str) -> DeliveryNotice:
    return DeliveryNotice(
        notice_id=f"notice-crm-{kind.value.lower()}", kind=kind, destination="crm", reason=reason, detail=detail, occurred_at_ms=MOMENT_MS, **about
    )


ABOUT = {"program_id": "grand", "member_id": "m-1", "event_id": "grand-m-1-3"}
EVERY_NOTICE = {one.kind: one for one in (
    notice(NoticeKind.DESTINATION_FAILING, "FAILING", "CONNECT: nothing gets through since 2026-03-01T11:58:00.000Z"),
    notice(NoticeKind.DESTINATION_RECOVERED, "RECOVERED", "deliveries get through again"),
    notice(NoticeKind.DESTINATION_DISABLED, "GONE", "it answered 410: the receiver wants no more events"),
    notice(NoticeKind.DESTINATION_ENABLED, "OPERATOR", "events that were kept are sent now"),
    notice(NoticeKind.DELIVERY_EXHAUSTED, "RETRIES_EXHAUSTED", "status 500", **ABOUT),
    notice(NoticeKind.DELIVERY_BLOCKED, "RETRIES_EXHAUSTED", "status 500", **ABOUT),
    notice(NoticeKind.DELIVERIES_DROPPED, "RETENTION", "1200 events of the log are gone undelivered"),
)}  # fmt: skip


def watch(rendered: dict[str, str], name: str) -> None:
    """The bytes are a contract with every receiver: if this fails, they get something else than yesterday."""
    golden = GOLDEN / name
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(json.dumps(rendered, indent=2, ensure_ascii=False) + "\n")
    assert rendered == json.loads(golden.read_text()), "if it is meant: WRITE_GOLDEN=1 and say so in the changelog"


# Version 1.


def test_every_kind_of_event_has_its_golden_body() -> None:
    watch({kind.value: payloads.render(one, "1").decode() for kind, one in EVERY_KIND.items()}, "webhook.json")
    assert EVERY_KIND.keys() == payloads.TYPES.keys() == set(LoyaltyEventKind) - {LoyaltyEventKind.UNKNOWN}


def test_every_kind_of_notice_has_its_golden_body() -> None:
    watch({kind.value: payloads.render(one, "1").decode() for kind, one in EVERY_NOTICE.items()}, "notices.json")
    assert EVERY_NOTICE.keys() == payloads.NOTICE_TYPES.keys() == set(NoticeKind) - {NoticeKind.UNKNOWN}


def test_what_is_no_record_has_its_golden_body() -> None:
    batch = payloads.render_batch([payloads.render(EVERY_KIND[kind], "1") for kind in BATCHED], "batch-5f0c", MOMENT_MS)
    watch({"BATCH": batch.decode(), "TEST": payloads.test_body("crm", MOMENT_MS).decode()}, "envelopes.json")


RENDERED = {**{one.value: body for one, body in EVERY_KIND.items()}, **{one.value: body for one, body in EVERY_NOTICE.items()}}


@pytest.mark.parametrize("version", payloads.VERSIONS)
@pytest.mark.parametrize("kind", RENDERED)
def test_names_are_in_order_at_every_depth(kind: str, version: str) -> None:
    body = payloads.render(RENDERED[kind], version)
    assert orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS) == body


def test_version_1_holds_every_field_of_its_day() -> None:
    envelope = json.loads(payloads.render(BALANCE, "1"))
    assert (envelope["type"], envelope["timestamp"]) == ("loyalty.balance.changed", "2026-03-01T12:00:00.003Z")
    assert public(BALANCE.to_avro()) == envelope["data"]
    one = EVERY_NOTICE[NoticeKind.DELIVERY_BLOCKED]
    assert public(one.to_avro()) == json.loads(payloads.render(one, "1"))["data"]


def public(value: Any) -> Any:
    """The rule by which version 1 came from the schema of its day: times, which are all that ends in _ms, are texts without that suffix."""
    if isinstance(value, dict):
        return {
            name.removesuffix("_ms"): payloads.iso(inner) if name.endswith("_ms") and inner is not None else public(inner)
            for name, inner in value.items()
        }
    return [public(inner) for inner in value] if isinstance(value, list) else value


def grown(record: Any) -> Any:
    """The same record of a later schema: here, and in the records within, fields have come."""
    parts = {part.name: getattr(record, part.name) for part in fields(record)}
    for name, value in parts.items():
        if isinstance(value, AccountSnapshot | Cause):
            parts[name] = grown(value)
        elif isinstance(value, tuple):
            parts[name] = tuple(grown(one) if isinstance(one, LotPart) else one for one in value)
    more = [("aardvark", str, field(default="new")), ("zone_ms", int, field(default=MOMENT_MS))]
    later = make_dataclass(type(record).__name__, more, bases=(type(record),), frozen=True, kw_only=True)
    return later(**parts)


@pytest.mark.parametrize("version", payloads.VERSIONS)
@pytest.mark.parametrize("kind", RENDERED)
def test_a_field_that_the_schema_gets_changes_no_byte_of_an_old_version(kind: str, version: str) -> None:
    record = RENDERED[kind]
    later = grown(record)
    assert later.aardvark == "new" and {*later.__dataclass_fields__} > {*record.__dataclass_fields__}
    assert payloads.render(later, version) == payloads.render(record, version)


@pytest.mark.parametrize(("record", "version"), [
    (event(1, kind=LoyaltyEventKind.UNKNOWN), "1"), (notice(NoticeKind.UNKNOWN, "", ""), "1"), (event(1), "0"), (event(1), ""),
], ids=["event", "notice", "version 0", "no version"])  # fmt: skip
def test_what_this_code_does_not_know_is_a_key_error(record: LoyaltyEvent | DeliveryNotice, version: str) -> None:
    with pytest.raises(KeyError):
        payloads.render(record, version)


@pytest.mark.parametrize("change", [
    {"occurred_at_ms": 10**17}, {"recorded_at_ms": 10**30}, {"points_delta": 2**70}, {"offer_id": "\ud800"},
], ids=["year", "beyond any", "number", "text"])  # fmt: skip
def test_what_no_body_can_hold(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, OverflowError, TypeError)):
        payloads.render(event(1, **change), "1")


@pytest.mark.parametrize(("moment_ms", "text"), [
    (0, "1970-01-01T00:00:00.000Z"), (-1, "1969-12-31T23:59:59.999Z"), (1_772_366_400_999, "2026-03-01T12:00:00.999Z"),
    (1_772_366_401_000, "2026-03-01T12:00:01.000Z"),
])  # fmt: skip
def test_times_are_iso_8601_in_utc(moment_ms: int, text: str) -> None:
    assert payloads.iso(moment_ms) == text


def test_a_destination_may_name_the_versions_that_there_are() -> None:
    assert tuple(payloads.VERSIONS) == PAYLOAD_VERSIONS


# Batches, and what an operator sends.


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_holds_bodies_as_they_are(count: int) -> None:
    bodies = [payloads.render(event(number), "1") for number in range(1, count + 1)]
    batch = payloads.render_batch(bodies, 'batch-"1"', MOMENT_MS)
    assert json.loads(batch) == {
        "type": "loyalty.batch", "timestamp": "2026-03-01T12:00:00.000Z",
        "data": {"batch_id": 'batch-"1"', "events": [json.loads(body) for body in bodies]},
    }  # fmt: skip
    assert all(body in batch for body in bodies)


def test_the_body_of_a_trial_is_about_no_member() -> None:
    assert json.loads(payloads.test_body("crm", MOMENT_MS)) == {
        "type": "loyalty.test", "timestamp": "2026-03-01T12:00:00.000Z", "data": {"destination": "crm"}
    }


# Filters.


@pytest.mark.parametrize(("path", "text"), [
    ("account.tier", "GOLD"), ("account.status", "ACTIVE"), ("account.available_points", "300"), ("points_delta", "-250"), ("movement", "HOLD"),
    ("kind", "BALANCE_CHANGED"), ("cause.source_system", "pms"),
    ("occurred_at", "2026-03-01T12:00:00.003Z"), ("expires_at", "2026-03-13T01:46:40.000Z"),
    ("account.tier_valid_until", "2026-06-25T05:46:40.000Z"), ("shortfall_points", "50"),
    ("lots.lot_id", ["t-1", "t-2"]), ("lots.points", ["200", "50"]), ("lots.expires_at", ["2026-06-25T05:46:40.000Z"]), ("changed_attributes", []),
    ("offer_id", None), ("account", None), ("lots", []), ("lots.nothing", []), ("nothing", None), ("account.nothing", None),
    ("account.tier.more", None),
    ("occurred_at_ms", None), ("to_avro", None), ("SCHEMA", None), ("__class__", None), ("account.__doc__", None), ("", None), (".", None),
], ids=str)  # fmt: skip
def test_the_text_of_a_field(path: str, text: str | list[str] | None) -> None:
    assert payloads.field_text(BALANCE, path) == text


def test_fields_that_are_lists_of_texts_and_fields_of_notices() -> None:
    assert payloads.field_text(EVERY_KIND[LoyaltyEventKind.PROFILE_CHANGED], "changed_attributes") == ["email", "phone"]
    assert payloads.field_text(EVERY_NOTICE[NoticeKind.DELIVERY_BLOCKED], "member_id") == "m-1"


def paths(data: Any, place: str = "") -> list[str]:
    """Every dotted path of a body's data that leads to a single value or to several of them."""
    if isinstance(data, dict):
        return [path for name, inner in data.items() for path in paths(inner, f"{place}.{name}" if place else name)]
    return paths(data[0], place) if isinstance(data, list) and data else [place]


def test_every_field_of_a_body_can_be_a_filter() -> None:
    data = json.loads(payloads.render(BALANCE, "1"))["data"]
    found = paths(data)
    assert {"account.tier", "lots.lot_id", "cause.stream", "sequence"} < set(found)
    for path in found:
        value: Any = data
        for name in path.split("."):
            value = [one[name] for one in value] if isinstance(value, list) else value[name]
        expected = [str(one) for one in value if one is not None] if isinstance(value, list) else None if value is None else str(value)
        assert payloads.field_text(BALANCE, path) == expected, path
