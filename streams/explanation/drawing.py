"""The document of an explanation -> what people read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from streams.ingress.commands import format_time

Row = dict[str, Any]

NOT_REACHED = {
    "history": "ClickHouse", "log": "The log", "table": "The worker's table", "cache": "Redis", "destinations": "The webhook sinks",
}  # fmt: skip
STYLES = {
    "received": "cyan", "decided": "bold cyan", "posted": "green", "told": "blue", "stored": "dim", "attempted": "yellow", "concluded": "magenta",
    "mirrored": "dim",
}  # fmt: skip
COMPARED = ("status", "tier", "available_points", "pending_points", "held_points", "debt_points", "qualifying_points")
"""What both the account and Redis have."""


def parts(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The document, part by part."""
    for one in found["members"]:
        yield from _member(one)
    for one in found["waiting"]:
        yield Text.assemble((f"{one['command_id']} of {one['program_id']}/{_clean(one['member_id'])}", "bold"), (" is not decided", "yellow"))
        yield _line(one["at"], "", "waits", "yellow", f"{one['stream']} from {one['source_system']} at {one['place']}; for {one['waits_for']}")
    for one in found["ways"]:
        yield from _way(one)
    for one in found["given_up"]:
        yield _line(one["at"], "", "given up", "red", f"{one['place']} by {one['processor']}: {one['stage']} {one['reason']}: {one['detail']}")
    for source, why in found["not_reached"].items():
        yield Text(_clean(f"{NOT_REACHED[source]} has no say in this: {why}"), "yellow")
    if found["mirrored_until_ms"]:
        yield Text(f"The history has what was recorded until {format_time(found['mirrored_until_ms'])}; what is newer is from the log.", "dim")


def _member(one: Row) -> Iterator[RenderableType]:
    account, cache = one["account"], one["cache"]
    name = _clean(f"{one['program_id']}/{one['member_id']}")
    if account is None and cache is None:
        yield Text.assemble((name, "bold"), ": nobody is enrolled under this number")
    elif account is None:
        yield Text.assemble((name, "bold"), f": Redis has {cache['available_points']:,} available points as of event {cache['sequence']}")
    else:
        reached = f"event {account['event_sequence']}, entry {account['entry_sequence']}"
        yield Text.assemble((name, "bold"), f": {account['status']}, {_clean(account['tier'])}, {reached}")
        yield _beside(account, cache)
        yield from map(_indented, _open(account))
    for held in one["waiting"]:
        yield _line(held["at"], "", "waits", "yellow", f"{held['stream']} {held['command_id']} from {held['source_system']}; for {held['waits_for']}")
    for lane in one["destinations"]:
        state = "needs somebody: it is blocked" if lane["is_blocked"] else f"next attempt {lane['due_at']}" if lane["due_at"] else "tried now"
        yield _indented(
            f"{lane['destination']} is behind: {lane['waiting']} events from {lane['event_id']} on, {lane['attempts']} attempts since"
            f" {lane['failing_since']}, {state}: {lane['detail']}", "yellow"
        )  # fmt: skip
    for receipt in one["receipts"]:
        yield _line(receipt["ended_at"], "", "concluded", STYLES["concluded"], f"{receipt['destination']}: event {receipt['sequence']} {receipt['result']}")
    for letter in one["dead_letters"]:
        at = f"{letter['topic']}[{letter['partition']}]@{letter['offset']}"
        yield _line(letter["failed_at"], "", "given up", "red", f"{at} by {letter['processor']}: {letter['reason']}: {letter['detail']}")
    yield Text()


def _beside(account: Row, cache: Row | None) -> RenderableType:
    """The account as the worker has it, and as Redis has it."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 2))
    for column in ("", "table", "Redis"):
        table.add_column(column, justify="right" if column else "left")
    names = {"event_sequence": "event", **{name: name.removesuffix("_points") for name in COMPARED}}
    for field, name in names.items():
        here, there = account[field], None if cache is None else cache["sequence" if field == "event_sequence" else field]
        style = "" if cache is None or here == there else "yellow"
        table.add_row(name, _cell(here), Text(_cell(there), style))
    return table


def _open(account: Row) -> Iterator[str]:
    """What of the account is not settled."""
    for lot in account["lots"]:
        if lot["remaining"] or lot["held"]:
            ends = f"until {lot['expires_at']}" if lot["expires_at"] else "without an end"
            state = " after the suspension" if lot["parked"] else f" from {lot['available_from'] or 'its activation'}" if lot["pending"] else ""
            yield f"lot {lot['lot_id']}: {lot['remaining']:,} of {lot['points']:,} left{state}, {lot['held']:,} held, {ends}"
    for hold in account["holds"]:
        yield f"hold {hold['hold_id']}: {hold['points']:,} points, let go {hold['expires_at'] or 'by a command alone'}"
    for voucher in account["vouchers"]:
        yield f"voucher {voucher['voucher_code']} for {voucher['reward_code']}, until {voucher['expires_at'] or 'it is used'}"
    if account["scheduled_status"]:
        yield f"will be {account['scheduled_status']} from {account['scheduled_at']}"
    for offer in account["offers_asked"]:
        yield f"the budget of offer {offer} is asked"
    if account["merged_into"]:
        yield f"merged into {account['merged_into']}, where the points are"
    if account["due_at"]:
        yield f"something is due at {account['due_at']}"


def _way(one: Row) -> Iterator[RenderableType]:
    members = ", ".join(f"{one['program_id']}/{name}" for name in one["members"])
    yield Text.assemble((_clean(f"{one['command_id']} of {members}"), "bold"), f", {one['total_ms']:,} ms from its receipt to the last step")
    if one["waits_for"]:
        yield _indented(f"not decided: waits for {one['waits_for']}", "yellow")
    for step in one["steps"]:
        words = _said(step, is_shared=len(one["members"]) > 1)
        origin = " (not in the history yet)" if step["from"] == "log" and step["step"] != "stored" else ""
        yield _line(step["at"], f"+{step['after_ms']:,} ms", step["step"], STYLES[step["step"]], words + origin)
    for other in one["related"]:
        kinds = ", ".join(other["kinds"])
        yield _line(other["at"], "", "related", "dim", f"{other['relation']} {other['command_id']}: {kinds} {other['points']:+,}")
    yield Text()


def _said(step: Row, *, is_shared: bool) -> str:
    """A step in a line."""
    row = step["row"]
    whose = f"{row['member_id']}: " if is_shared and row.get("member_id") else ""
    match step["step"]:
        case "received":
            by = "/".join(filter(None, (row["source_system"], row["actor"])))
            place = f"{row['topic']}[{row['partition']}]@{row['offset']}"
            return f"{whose}{row['stream']} from {by} at {place}, happened {row['occurred_at']}, hash {row['payload_hash']}"
        case "decided":
            why = ", ".join(filter(None, (row["reason"], row["detail"])))
            rules = f", rules of version {row['rule_version']}" if row["rule_version"] else ""
            return f"{whose}{row['result']}{' again' if row['replayed'] else ''}{f' ({why})' if why else ''}{rules}"
        case "posted":
            moved = f"{row['points_delta']:+,} {row['account']} against {row['counter_account']}, {row['balance_after']:,} after"
            rule = f"{row['rule_id']} of version {row['rule_version']}"
            return f"{whose}entry {row['entry_sequence']} {row['kind']}: {moved}; {rule}; hash {row['entry_hash'][:16]}"
        case "told":
            return f"{whose}event {row['sequence']} {row['kind']}: {row['available_points']:,} available, {row['tier']}, {row['status']}; {row['event_id']}"
        case "stored":
            return f"{whose}account as of event {row['event_sequence']} at {row['topic']}[{row['partition']}]@{row['offset']}"
        case "attempted":
            again = f", again at {row['next_attempt_at']}" if row["next_attempt_at"] else ""
            return f"{row['channel']}, attempt {row['attempt']}: {row['outcome']} {row['verdict']} in {row['duration_us'] / 1000:,.1f} ms{again}"
        case "concluded":
            why = f", {row['reason']}" if row["reason"] else ""
            return f"{whose}{row['destination']}: {row['result']} after {row['attempts']} attempts{why}"
    return f"{row['table']}: {row['rows']} rows"


def _line(at: str, waited: str, name: str, style: str, words: str) -> Text:
    return Text.assemble((f"  {at} {waited:>12} ", "dim"), (f"{name:<10}", style), _clean(words))


def _indented(words: str, style: str = "") -> Text:
    return Text(f"  {_clean(words)}", style)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else _clean(str(value))


def _clean(text: str) -> str:
    """Texts come from other systems, and a terminal obeys control characters."""
    return "".join(one if one.isprintable() else "?" for one in text)


def is_empty(found: Mapping[str, Sequence[Row]]) -> bool:
    """Whether nothing is known of the id."""
    return not (found["ways"] or found["members"] or found["waiting"] or found["given_up"])
