"""An export after an erasure -> the receipt: whatever is left of a person shows as a store that is not done."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from streams import topics
from streams.personal_data import command, places, receipt

ACCOUNT: dict[str, Any] = {
    "status": "ERASED", "attributes": {}, "segments": [], "external_ids": {}, "origins": [], "source_versions": {}, "status_reason": None,
    "scheduled_reason": None, "available_points": 70, "moved_from": [],
}  # fmt: skip
NUMBER: dict[str, Any] = {
    "member_id": "m-1", "account": ACCOUNT, "waiting": [], "vouchers": [], "outcomes": [{"id": "t:1"}, {"id": "t:2"}], "cache": None,
    "rows_to_forget": 0,
    "history": {
        "member_profile_history": [{"operation": "ERASE"}], "loyalty_events": [{"command_reason": None}, {"command_reason": ""}],
        "ledger_entries": [{"points_delta": 70}],
    },
}  # fmt: skip


def export(**changed: Any) -> dict[str, Any]:
    number = NUMBER | changed
    return {"readme": {}, "program_id": "grand", "member_id": "m-1", "exported_at": "2026-11-25T12:00:00.000Z", "numbers": [number], "complete": True}


def not_done(document: dict[str, Any]) -> dict[str, str]:
    return {store.name: store.detail for store in receipt.stores(document) if not store.is_done}


def test_nothing_is_left() -> None:
    assert (not_done(export()), receipt.is_finished(export())) == ({}, True)
    assert not_done(export(account=None)) == {}, "nobody was enrolled"


@pytest.mark.parametrize(
    ("changed", "stores", "says"),
    [
        ({"account": ACCOUNT | {"status": "ACTIVE"}}, {"account", "the owner's disk"}, "m-1: status is ACTIVE"),
        *(
            ({"account": ACCOUNT | {name: ["something"]}}, {"account", "the owner's disk"}, f"m-1: has {name}")
            for name in ("attributes", "segments", "external_ids", "origins", "source_versions", "status_reason", "scheduled_reason")
        ),
        ({"waiting": [{}, {}]}, {"account", "the owner's disk"}, "m-1: 2 commands wait"),
        ({"rows_to_forget": 3}, {"the owner's disk"}, "3 rows wait to be removed from its files"),
        (
            {"history": {"member_profile_history": [{"operation": "ENROL"}, {"operation": "ERASE"}]}},
            {"history (ClickHouse)"}, "m-1: 1 versions of the profile",
        ),
        (
            {"history": {"loyalty_events": [{"command_reason": "moved away"}]}},
            {"history (ClickHouse)"}, "m-1: 1 events with reasons that senders gave",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # The others are told by what it says.
)  # fmt: skip
def test_what_is_left_shows(changed: dict[str, Any], stores: set[str], says: str) -> None:
    found = not_done(export(**changed))
    assert found.keys() == stores and says in found.values()
    assert not receipt.is_finished(export(**changed))


def test_a_merged_number_counts_as_well() -> None:
    document = export()
    document["numbers"].append(NUMBER | {"member_id": "m-0", "account": ACCOUNT | {"status": "MERGED", "attributes": {"name": "Ada"}}})
    assert not_done(document)["account"] == "m-0: status is MERGED; m-0: has attributes"


def test_the_times_that_are_told_are_those_of_the_topics() -> None:
    assert (places.INBOUND_DAYS, places.CHANGELOG_DAYS, places.PROFILES_DAYS) == (90, 2, 10)
    assert places.REMAINS["dead letters"].endswith(" 90 days.") and places.REMAINS["webhook inbox"].endswith(" 7 days.")
    week_ms = str(7 * topics.DAY_MS)
    assert (topics.PROFILES.config["min.compaction.lag.ms"], topics.PROFILES.config["max.compaction.lag.ms"]) == (week_ms, week_ms)


def test_the_archive_has_a_file_for_each_section_of_each_number(tmp_path: Path) -> None:
    document = export(waiting=[{"command": {"member_id": "m-1"}}])
    document["numbers"].append(NUMBER | {"member_id": "../up", "account": None})
    command.write_zip(document, tmp_path / "export.zip")
    with zipfile.ZipFile(tmp_path / "export.zip") as archive:
        assert json.loads(archive.read("readme.json"))["member_id"] == "m-1"
        names = {"account", "waiting", "vouchers", "outcomes", "cache", *NUMBER["history"]}
        assert set(archive.namelist()) == {"readme.json", *(f"{place}/{name}.jsonl" for place in (0, 1) for name in names)}
        assert [json.loads(line) for line in archive.read("0/outcomes.jsonl").splitlines()] == NUMBER["outcomes"]
        assert archive.read("1/account.jsonl") == b""
