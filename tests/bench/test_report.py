"""Ratios are of this engine over the other, and a goal that was not measured is not met."""

from typing import Any

import pytest

from tests.bench import measure, report, work


def test_goals() -> None:
    results = {
        "throughput": {
            "engine": [{"events_s": 30.0}, {"events_s": 10.0}, {"events_s": 20.0}],
            "bare-txn": [{"events_s": 40.0}],
            "engine-2": [{"events_s": 30.0}],
            "streams-1": [{"events_s": 50.0}],
            "streams-2": [{"events_s": 80.0}],
            "quix-eo": [{"error": "no network"}],
        },
        "members": {"10000": {"events_s": 100.0}, "1000000": {"events_s": 80.0, "cold_s": 9.0, "bare_read_s": 4.0, "disk_bytes_per_member": 1024.0}},
        "latency": {"engine 100/s": {"p50_ms": 15.0, "p99_ms": 100.1}},
    }
    found = {goal.name.partition(" beside")[0] + goal.bound: (goal.measured, goal.met) for goal in report.goals(results)}
    assert found["one worker>= 0.5x"] == ("0.50x", True)
    assert found["two workers>= 0.5x"] == ("0.38x", False), "beside the better of the two"
    assert found["one worker>= 3x"] == ("not measured", None)
    assert found["1,000,000 members>= 0.8x"] == ("0.80x", True)
    assert found["p50 at 100 events/s<= 15 ms"] == ("15 ms", True)
    assert found["p99 at 100 events/s<= 100 ms"][1] is False
    assert found["cold recovery of 1,000,000 members<= 2 x"] == ("2.25 x", False)
    assert found["local disk per member<= 1024 bytes"][1] is True


def round_of(events_s: float, others_cores: float = 0.0, wrong: int = 0) -> dict[str, Any]:
    return {"events_s": events_s, "events": 10, "wrong": wrong, "cpu_us": 1.0, "rss_mib": 1, "others_cores": others_cores}


@pytest.mark.parametrize(("others_cores", "said"), [(0.0, False), (1.5, True)])
def test_a_page_says_when_others_used_the_machine_and_what_was_wrong(others_cores: float, said: bool) -> None:
    machine = {"cores": 2, "cpu": "any", "memory_gib": 1, "python": "3", "versions": {}}
    throughput = {
        "engine": [round_of(20.0), round_of(30.0), round_of(10.0)],
        "bare": [round_of(40.0, others_cores, wrong=7)],
        "faust-eo": [{"error": "lost\nstalled"}],
    }
    page = report.markdown({"date": "today", "command": "bench", "machine": machine, "throughput": throughput})
    assert ("Other programs were running" in page) is said
    rows = {line.split(" | ")[0]: line for line in page.splitlines()}
    assert "| 20 | 10 to 30 | 1.00x |" in rows["| this engine, 1 worker"]
    assert f"| 2.00x |  | 1 | 1 | 7 | {others_cores:.2f} |" in rows["| bare loop, no transactions"]
    assert "not measured: stalled" in rows["| Faust as it is, exactly_once"]


def test_missing_doubled_and_different_outputs_are_wrong() -> None:
    count, rows, values = 300, {}, []
    for movement in work.movements(measure.SEED, count, measure.MEMBERS):
        rows[movement["member_id"]], changed = work.decide(rows.get(movement["member_id"]), movement)
        values.append(work.encode(work.CHANGED, changed))
    assert measure.wrong(count, reversed(values)) == 0, "partitions have no common order"
    assert measure.wrong(count, values[1:]) == 1
    assert measure.wrong(count, [*values, values[0]]) == 1
    assert measure.wrong(count, [values[1], *values[1:]]) == 1, "one lost, one doubled: the number is right"
    assert measure.wrong(count, [values[0][:-1] + b"\0", *values[1:]]) == 1
