"""What may have a cadence and what may not, in the configuration file."""

import pytest

from streams import configuration
from streams.errors import ConfigurationError
from streams.scheduling.cadence import REALTIME, Cadence
from streams.sync import names

PROGRAM = {"programs": {"grand": {"tiers": [{"name": "MEMBER", "threshold_points": 0}]}}}
EVERY = {"every": "15m"}


MAY_WAIT = ("enrolments", "profile-changes", "profile-changes/salesforce", "offer-activations", *names.OUTBOUND, "report/liability", "reconcile")


@pytest.mark.parametrize("name", MAY_WAIT)
def test_these_may_wait(name: str) -> None:
    parsed = configuration.parse(PROGRAM | {"sync": {name: EVERY}})
    assert parsed.sync == {name: EVERY}


@pytest.mark.parametrize(("name", "problem"), [
    ("transactions", "sync.transactions is realtime always: points are earned, spent and shown by it"),
    ("transactions/apaleo", 'sync."transactions/apaleo" is realtime always'),
    ("earn", "realtime always"), ("redeem", "realtime always"), ("balance", "realtime always"), ("tier", "realtime always"), ("redis", "realtime always"),
    ("events", "realtime always"), ("history/events", "realtime always"), ("history/ledger-entries", "realtime always"),
    ("suspension", "sync.suspension is realtime always: who is suspended must be so at once"),
    ("member-operations", "realtime always"), ("statuses", "realtime always"),
    ("history/ticks", "is no stream of the history that may wait; these may: history/profiles"),
])  # fmt: skip
def test_these_never_wait(name: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configuration.parse(PROGRAM | {"sync": {name: EVERY}})
    assert problem in str(caught.value)


@pytest.mark.parametrize("name", sorted(names.REALTIME_ONLY))
def test_what_is_realtime_always_may_say_so(name: str) -> None:
    assert names.refusal(name, REALTIME) == "" != names.refusal(name, Cadence(every_s=60))


@pytest.mark.parametrize(("name", "table", "problem"), [
    ("reconcile", {"realtime": True}, "sync.reconcile is a job: it needs every or cron"),
    ("profile-changes", {"every": "15"}, "sync.profile-changes cannot be so: every must be a time such as"),
    ("profile-changes", {"window": "01:00-05:00"}, "a window needs every or cron"),
    ("Profile Changes", EVERY, "must be named with"),
])  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(name: str, table: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configuration.parse(PROGRAM | {"sync": {name: table}})
    assert problem in str(caught.value)


def test_the_place_of_what_is_wrong_is_in_its_line() -> None:
    text = '[programs.grand]\n[[programs.grand.tiers]]\nname = "M"\nthreshold_points = 0\n[sync."transactions/apaleo"]\nevery = "15m"\n'
    import tomllib

    with pytest.raises(ConfigurationError) as caught:
        configuration.parse(tomllib.loads(text), file="loyalty.toml", text=text)
    assert str(caught.value).startswith('loyalty.toml line 5: sync."transactions/apaleo" is realtime always')
