"""`[destinations.NAME]` with a kind: what is read, and what is said of mistakes."""

import tomllib

import pytest

from streams import configuration
from streams.errors import ConfigurationError

PROGRAM = '[programs.grand]\ntiers = [{ name = "MEMBER", threshold_points = 0 }]\n'
TARGET = '[destinations.hr]\nkind = "darwinbox"\nbase_url = "https://tenant.example"\n'


def parse(text: str) -> configuration.Configuration:
    return configuration.parse(tomllib.loads(PROGRAM + text), text=PROGRAM + text)


def test_a_destination_with_a_kind_is_a_connected_system_and_one_without_takes_webhooks() -> None:
    webhook = '[destinations.crm]\nurl = "https://crm.example/"\nsecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"\n'
    read = parse(TARGET + 'programs = ["grand"]\nrate_max_per_s = 5\nclient_secret = "hush"\n' + webhook)
    assert set(read.targets) == {"hr"} and set(read.destinations) == {"crm"}
    target = read.targets["hr"]
    assert (target.kind, target.programs) == ("darwinbox", frozenset({"grand"}))
    assert {name: target.options[name] for name in ("rate_max_per_s", "concurrency_max", "points_attribute", "client_secret")} == {
        "rate_max_per_s": 5.0, "concurrency_max": 4, "points_attribute": "loyalty_points", "client_secret": "hush",
    }  # fmt: skip
    assert "hush" not in repr(read.targets)


@pytest.mark.parametrize(("line", "problem"), [
    ('programs = ["other"]', "destinations.hr.programs names 'other', which is none of grand"),
    ("concurrency_max = 0", "destinations.hr.concurrency_max must be a number from 1 on"),
    ("rate_max_per_s = -1", "destinations.hr.rate_max_per_s must be a number from 0.001 on"),
    ("timeout_s = 0", "destinations.hr.timeout_s must be a number from 0.1 on"),
    ("batch_members_max = -5", "destinations.hr.batch_members_max must be a number from 1 on"),
    ("url = 'https://x.example'", "destinations.hr.url is not known here"),
    ('[destinations.other]\nkind = "fax"', "destinations.other.kind must be one of"),
    ('[destinations.other]\nkind = "hr"', "destinations.other.kind must be one of"),
])  # fmt: skip
def test_mistakes_are_named_with_their_place(line: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(TARGET + line)
    assert any(problem in one for one in caught.value.problems), caught.value.problems
