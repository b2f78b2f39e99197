"""What `loyalty reconcile source` writes for people and for programs."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from streams.cli import main
from streams.reconciliation import command, printing
from streams.reconciliation.comparison import Difference, Kind, Mask
from tests.reconciliation.test_comparison import origin, program

DIFFERENCES = [
    Difference(kind=Kind.ATTRIBUTE, member_id="M-2", part="email", ours="ada@example.org", theirs=None, line=3, version_here=5, version_there=9,
               origin=origin("email"), explanation="never arrived", repair="reconcile:1"),
    Difference(kind=Kind.MISSING_HERE, member_id="", line=4, explanation="never\x1b[31m arrived", repair="none: why"),
]  # fmt: skip
ROWS = [command._row(one, Mask(program())) for one in DIFFERENCES]


def written(capsys: pytest.CaptureFixture[str], *, as_json: bool = False, as_csv: bool = False) -> str:
    write = printing.writer(as_json, as_csv, command._line)
    for row in ROWS:
        write(row)
    return capsys.readouterr().out


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert written(capsys) == (
        "M-2, line 3: email: 'a***' here, nothing there\n    never arrived\n    repair: reconcile:1\n"
        "(not a member), line 4: missing here\n    never?[31m arrived\n    repair: none: why\n"
    )


def test_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [json.loads(line) for line in written(capsys, as_json=True).splitlines()]
    assert rows[0] == {
        "kind": "attribute", "member_id": "M-2", "part": "email", "ours": "a***", "theirs": None, "line": 3, "version_here": 5, "version_there": 9,
        "event_id": "sf:5", "event_source": "salesforce", "explanation": "never arrived", "repair": "reconcile:1",
    }  # fmt: skip
    table = list(csv.DictReader(io.StringIO(written(capsys, as_csv=True))))
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows] == table


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (["--json", "--csv"], 2, "exclude each other"),
        (["--map", "Email"], 2, "--map must have the form left=right, not 'Email'"),
        (["--map", "Email=email"], 2, "must name the column that tells whose row it is"),
        (["--mapping", "none.toml"], 2, "none.toml cannot be read"),
    ],
)
def test_options_that_must_be_mended(tmp_path: Path, options: list[str], code: int, why: str) -> None:
    result = CliRunner().invoke(main, ["reconcile", "source", str(tmp_path / "e.csv"), "--program", "grand", "--source", "salesforce", *options])
    assert (result.exit_code, why in result.output) == (code, True), result.output
