"""Ratios are of this engine over the other, and a goal that was not measured is not met."""

from tests.bench import report


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
