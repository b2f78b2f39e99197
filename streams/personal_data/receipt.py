"""An export after an erasure -> the receipt: which store has nothing personal of the member any more, and what remains for how long."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streams.personal_data.places import CHANGELOG_DAYS, PROFILES_DAYS

ERASED = "ERASED"
PERSONAL_FIELDS = ("attributes", "segments", "external_ids", "origins", "source_versions", "status_reason", "scheduled_reason")
"""Of an account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """One place, as the export shows it."""

    name: str
    is_done: bool
    detail: str
    """What was found; and when the rest follows by itself."""


def stores(export: Mapping[str, Any]) -> tuple[Store, ...]:
    """What each store that can be asked says of all numbers of the export."""
    numbers = export["numbers"]
    rows = sum(number["rows_to_forget"] for number in numbers)
    left = [f"{number['member_id']}: {what}" for number in numbers for what in _in_account(number)]
    kept = [f"{number['member_id']}: {what}" for number in numbers for what in _in_history(number["history"])]
    return (
        Store(name="account", is_done=not left, detail="; ".join(left) or "nothing personal"),
        Store(
            name="the owner's disk", is_done=not left and rows == 0,
            detail=f"{rows} rows wait to be removed from its files" if rows else "older versions are gone; copies on other workers follow in seconds",
        ),
        Store(
            name="history (ClickHouse)", is_done=not kept,
            detail="; ".join(kept) or "older versions are gone; the files of before are deleted within half an hour",
        ),
        Store(name="cache (Redis)", is_done=True, detail="status, tier and points under the number: nothing personal"),
    )  # fmt: skip


SCHEDULED = {
    "changelogs": f"older versions are gone from the brokers' disks within {CHANGELOG_DAYS} days",
    "profiles topic": f"older versions are gone from the brokers' disks within {PROFILES_DAYS} days",
}
"""Stores that follow by themselves."""


def is_finished(export: Mapping[str, Any]) -> bool:
    """Whether every store that can be asked is done."""
    return all(store.is_done for store in stores(export))


def _in_account(number: Mapping[str, Any]) -> Iterator[str]:
    account = number["account"]
    if account is not None:
        if account["status"] != ERASED:
            yield f"status is {account['status']}"
        if found := [name for name in PERSONAL_FIELDS if account[name]]:
            yield f"has {', '.join(found)}"
    if number["waiting"]:
        yield f"{len(number['waiting'])} commands wait"


def _in_history(history: Mapping[str, Any]) -> Iterator[str]:
    older = [row for row in history.get("member_profile_history", ()) if row["operation"] != "ERASE"]
    if older:
        yield f"{len(older)} versions of the profile"
    words = [row for row in history.get("loyalty_events", ()) if row["command_reason"]]
    if words:
        yield f"{len(words)} events with reasons that senders gave"
