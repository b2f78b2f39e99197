"""What the demo's verdict hangs on: a check that does not hold is never passed over, and is told so that people can act on it."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from infra.demo.checks import CheckFailed, Series, Step, duration, percentile, poll
from infra.demo.inbox import Arrival, Inbox
from infra.demo.screen import Screen
from infra.demo.systems import Answer
from infra.demo.telling import code_of, moment_in, refused
from infra.demo.world import make_stack
from streams.configuration import new_webhook_secret
from streams.errors import ConfigurationError
from streams.ingress.commands import parse_time


def a_step(screen: Screen | None = None) -> Step:
    if screen is None:
        return Step(number=1, title="A step")
    return Step(number=1, title="A step", on_check=screen.check, on_rows=screen.rows, on_output=screen.output)


def arrival(member: str, sequence: int) -> Arrival:
    return Arrival(member=member, sequence=sequence, kind="BALANCE_CHANGED", command_id="c", at_s=0.0, event={})


def test_a_claim_that_holds_is_kept() -> None:
    step = a_step()
    step.equal("two and two", 4, 4, took_s=0.5)
    assert [(check.claim, check.took_s) for check in step.checks] == [("two and two", 0.5)]


def test_a_claim_that_does_not_hold_ends_the_step() -> None:
    step = a_step()
    with pytest.raises(CheckFailed) as failed:
        step.equal("two and two", 5, 4)
    assert (failed.value.expected, failed.value.seen, step.checks) == ("4", "5", [])


async def test_waiting_ends_with_what_was_seen_last() -> None:
    answers = iter(range(100))

    async def ask() -> int:
        return next(answers)

    assert await poll("three", ask, lambda answer: answer == 3, expected=3) == 3
    with pytest.raises(CheckFailed) as failed:
        await poll("never", ask, lambda _: False, expected="a wonder", timeout_s=0.05)
    assert "a wonder" in failed.value.expected and int(failed.value.seen) > 3


@pytest.mark.parametrize(
    ("numbers", "faults"),
    [
        ([1, 2, 3], 0),
        ([1, 3, 2], 1),
        ([1, 3], 1),
        ([1, 2], 1),
        ([1, 2, 3, 4], 1),
        ([1, 2, 2, 3], 1),
        ([], 1),
    ],
)
def test_sequences_must_be_whole_and_in_order(numbers: list[int], faults: int) -> None:
    inbox = Inbox("app", new_webhook_secret())
    inbox.arrivals = [arrival("grand/M-1", number) for number in numbers]
    assert len(inbox.faults({"grand/M-1": 3})) == faults


def test_an_unknown_member_is_a_fault() -> None:
    inbox = Inbox("app", new_webhook_secret())
    inbox.arrivals = [arrival("grand/M-2", 1)]
    assert len(inbox.faults({})) == 1


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [50.0, 99.0, 100.0]
    assert percentile([0.25], 99) == 0.25
    assert Series(situation="", seconds=(0.2, 0.1, 0.3)).text == "p50 200 ms, p99 300 ms"


async def test_an_event_of_one_member_is_not_taken_for_that_of_another() -> None:
    inbox = Inbox("app", new_webhook_secret())
    inbox.arrivals = [arrival("grand/M-1", 2), arrival("grand/M-2", 5)]
    assert (await inbox.hear("BALANCE_CHANGED", "c")).sequence == 2
    assert (await inbox.hear("BALANCE_CHANGED", "c", "grand/M-2")).sequence == 5


def test_a_moment_is_the_same_in_all_its_forms() -> None:
    before_s = time.monotonic()
    moment = moment_in(2.0)
    assert parse_time(moment.text) == moment.at_ms
    assert 2.0 <= moment.at_s - before_s < 3.0
    assert moment.command == f"due:{moment.at_ms}"


def test_only_the_refusal_that_was_claimed_counts() -> None:
    step, problem = a_step(), {"type": "urn:loyalty:refused:HOLD_EXPIRED"}
    refused(step, "too late", Answer(422, problem, 0.1), "HOLD_EXPIRED")
    assert [check.claim for check in step.checks] == ["too late: HOLD_EXPIRED"]
    for answer in (Answer(422, {"type": "urn:loyalty:invalid"}, 0.1), Answer(202, {"status": "accepted"}, 0.1), Answer(200, problem, 0.1)):
        assert code_of(answer) in ("", "HOLD_EXPIRED")
        with pytest.raises(CheckFailed):
            refused(step, "too late", answer, "HOLD_EXPIRED")


DURATIONS = [(0.0414, "41 ms"), (0.9996, "1.00 s"), (9.994, "9.99 s"), (9.996, "10.0 s"), (61.27, "61.3 s")]


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_screen_can_do_with_ascii_and_without_colour(tmp_path: Path) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    screen = Screen(Console(file=file, highlight=False, width=100))
    step = a_step(screen)
    with screen.step(step, "A reason."):
        step.equal("it holds", 1, 1, took_s=0.02)
        step.proof = "proven"
        step.show([{"source": "spa", "points": 1234}])
        step.show_output("loyalty report liability", "owed  \n  77")
    screen.rows([{"hash": "0123456789" * 12}])  # Longer than a line: there is no sign for what would be left out.
    screen.failed(CheckFailed("it does not", expected=1, seen=2), [])
    screen.summary([step], [Series(situation="all", seconds=(0.1,))], dict.fromkeys(TRAFFIC, 1), 1.0)
    file.seek(0)
    text = file.read()
    assert "ok    20 ms  it holds" in text and "1,234" in text and "FAILED" in text and "expected: 1" in text and "proven" in text
    assert "    $ loyalty report liability\n    owed\n      77\n" in text
    assert (step.to_json()["rows"], step.to_json()["outputs"][0]["command"]) == ([{"source": "spa", "points": 1234}], "loyalty report liability")
    assert "\x1b" not in text and not any(line != line.rstrip() for line in text.splitlines())


TRAFFIC = ("commands", "repeated_commands", "ledger_entries", "events_mobile_app", "events_crm", "deliveries_repeated")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="holds other things"):
        make_stack(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_the_folder_of_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    make_stack(home)
    (home / "logs").mkdir()
    make_stack(home)
    assert [path.name for path in home.iterdir()] == ["lock"]
