"""What receivers are told is so: the snippets verify what we sign, and every type is in it, with the body that is sent."""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sinks import payloads
from streams import signatures
from streams.destinations.model import BATCHABLE, Destination
from streams.signatures import Signer

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "sinks" / "RECEIVING.md"
GOLDEN = Path(__file__).parent / "golden"
BEGIN, END = "<!-- bodies: WRITE_GOLDEN=1 python -m pytest tests/sinks/test_receiving.py -->\n", "\n<!-- /bodies -->"
TYPES = [*payloads.TYPES.values(), *payloads.NOTICE_TYPES.values(), payloads.BATCH_TYPE, payloads.TEST_TYPE]
BODY = '{"data":{"name":"Zoë"},"type":"loyalty.test"}'.encode()
SECRETS = {scheme: signatures.new_secret(scheme) for scheme in (signatures.HMAC, signatures.ED25519)}
KEYS = {signatures.HMAC: SECRETS[signatures.HMAC], signatures.ED25519: signatures.public_key(SECRETS[signatures.ED25519])}
OTHERS = [signatures.new_secret(), signatures.public_key(signatures.new_secret(signatures.ED25519))]


# The text.


def golden_bodies() -> dict[str, str]:
    """Type -> body of it."""
    bodies = [body for name in ("webhook", "notices", "envelopes") for body in json.loads((GOLDEN / f"{name}.json").read_text()).values()]
    return {json.loads(body)["type"]: body for body in bodies}


def rows(heading: str) -> dict[str, list[str]]:
    """First cell -> the others, of the table with this heading."""
    _, _, rest = GUIDE.read_text().partition(f"| {heading} |")
    table = rest.partition("\n\n")[0].splitlines()[2:]
    return {cells[0].strip("`"): cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in table)}


def test_bodies_are_those_of_the_golden_files() -> None:
    bodies = golden_bodies()
    assert sorted(bodies) == sorted(TYPES)
    text = GUIDE.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end
    shown = "\n\n".join(f"`{kind}`\n\n```json\n{bodies[kind]}\n```" for kind in TYPES)
    current = f"{before}{BEGIN}\n{shown}\n{END}{after}"
    if os.environ.get("WRITE_GOLDEN"):
        GUIDE.write_text(current)
        text = current
    assert text == current, "run: WRITE_GOLDEN=1 python -m pytest tests/sinks/test_receiving.py"


def test_every_type_is_in_the_table_and_says_whether_it_is_batched() -> None:
    table = rows("type")
    assert sorted(table) == sorted(TYPES)
    batched = {payloads.TYPES[kind] for kind in payloads.TYPES if kind.value in BATCHABLE}
    assert {kind for kind, (when, _) in table.items() if "batched" in when} == batched


def test_fields_of_the_table_are_in_the_bodies() -> None:
    bodies = golden_bodies()
    for kind, (_, look_at) in rows("type").items():
        for path in re.findall(r"`([a-z_.]+)`", look_at):
            value: Any = json.loads(bodies[kind])["data"]
            for name in path.removeprefix("data.").split("."):
                assert name in value, f"{kind}: {path}"
                value = value[name]


def test_defaults_are_those_of_a_destination() -> None:
    defaults = {part.name: part.default for part in fields(Destination)}
    table = rows("setting")
    assert table and {name: float(cells[0]) for name, cells in table.items()} == {name: defaults[name] for name in table}


def test_links_lead_somewhere() -> None:
    text = GUIDE.read_text()
    headings = {re.sub(r"[^a-z -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines() if line.startswith("#")}
    assert (links := re.findall(r"\]\(#([^)]+)\)", text))
    assert [link for link in links if link not in headings] == []


# The snippets.


def snippet(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def python_takes(keys: list[str], headers: dict[str, str], body: bytes) -> bool:
    names: dict[str, Any] = {}
    exec(compile(snippet("python"), str(GUIDE), "exec"), names)
    try:
        return bool(names["verify"](keys, headers, body) == headers["webhook-id"])
    except ValueError:
        return False


def javascript_takes(keys: list[str], headers: dict[str, str], body: bytes) -> bool:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    given = json.dumps({"keys": keys, "headers": headers, "body": body.hex()})
    ask = """
        const { keys, headers, body } = JSON.parse(process.argv[1]);
        let taken = false;
        try { taken = verify(keys, headers, Buffer.from(body, "hex")) === headers["webhook-id"]; } catch {}
        console.log(taken);
    """
    command = [node, "--input-type=module", "--eval", snippet("javascript") + ask, "--", given]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "true"


TAKES = {"python": python_takes, "javascript": javascript_takes}


@pytest.mark.parametrize("language", TAKES)
@pytest.mark.parametrize("scheme", [signatures.HMAC, signatures.ED25519])
def test_a_snippet_takes_what_is_genuine(language: str, scheme: str) -> None:
    takes, now_s = TAKES[language], int(time.time())
    both = Signer([*SECRETS.values()]).headers("grand-m-1-3", now_s, BODY)
    assert takes([KEYS[scheme]], both, BODY)
    assert takes([*OTHERS, KEYS[scheme]], Signer([SECRETS[scheme]]).headers("grand-m-1-3", now_s, BODY), BODY), "while keys rotate"


@pytest.mark.parametrize("language", TAKES)
@pytest.mark.parametrize("case", ["nothing", "body", "id", "stamp", "old", "ahead", "other keys", "nonsense", "schemes swapped", "no stamp"])
def test_a_snippet_refuses_what_is_not(language: str, case: str) -> None:
    now_s = int(time.time())
    signer = Signer([*SECRETS.values()])
    headers, keys, body = signer.headers("grand-m-1-3", now_s, BODY), [*KEYS.values()], BODY
    if case == "nothing":
        headers = {"webhook-id": ""}
    elif case == "body":
        body = BODY.replace(b":", b": ")
    elif case == "id":
        headers["webhook-id"] = "grand-m-1-4"
    elif case == "stamp":
        headers["webhook-timestamp"] = str(now_s - 1)
    elif case in ("old", "ahead"):
        headers = signer.headers("grand-m-1-3", now_s + (-400 if case == "old" else 400), BODY)
    elif case == "other keys":
        keys = OTHERS
    elif case == "nonsense":
        headers["webhook-signature"] = "v1,é v1a,! v1 v1a, v2,abcd , v1a," + "A" * 86 + "=="
    elif case == "schemes swapped":
        v1, v1a = headers["webhook-signature"].split(" ")
        headers["webhook-signature"] = v1.replace("v1,", "v1a,") + " " + v1a.replace("v1a,", "v1,")
    else:
        headers["webhook-timestamp"] = "soon"
    assert not TAKES[language](keys, headers, body)
