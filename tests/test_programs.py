"""Rules of a programme: every field reaches the domain, every fault is named with its line and its place, and JSON loses nothing."""

import dataclasses
import json
import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.stack import EXAMPLE_FILE
from schemas.records import ProgramVersion
from streams import configuration, programs
from streams.domain.program import (
    Demotion,
    EarnRule,
    EarnWhileSuspended,
    Expiry,
    ExpiryRule,
    Offer,
    Period,
    PersonalData,
    Program,
    RefundOfExpired,
    ReversalPolicy,
    Reward,
    Rounding,
    Tier,
    TierPolicy,
    Window,
)
from streams.errors import ConfigurationError
from streams.toml_lines import join, line_of

FULL = """
[programs.grand]
name = "Grand Hotels"
time_zone = "America/New_York"
idempotency_days = 45

[programs.grand.earn]
points_per_unit = { EUR = 10, JPY = 1 }
points_per_night = 7
rounding = "half_up"
pending_days = 14

[[programs.grand.earn.rules]]
id = "suite"
points_per_unit = { EUR = 2 }
points_per_night = 3
points_per_stay = 100
percent = 10
categories = ["room", "suite"]
segments = ["corporate"]
tiers = ["GOLD"]
cap_points = 5000
cap_period = "year"
stop = true

[programs.grand.expiry]
rule = "fixed_day"
month = 3
day = 31
days = 180

[[programs.grand.tiers]]
name = "MEMBER"

[[programs.grand.tiers]]
name = "GOLD"
threshold_points = 10000
earn_percent = 125
reward = "SPA-day_1"

[programs.grand.tier_policy]
window = "rolling"
window_days = 400
grace_days = 60
demotion = "one_step"
demote_on_reversal = true

[programs.grand.reversal]
policy = "unlimited"

[programs.grand.refund]
of_expired = "grace"
grace_days = 12

[programs.grand.holds]
minutes = 90
capture_while_suspended = true

[programs.grand.suspension]
earn = "refuse"

[programs.grand.mastering]
"external_ids.*" = "hr"
nickname = "local"
"n*" = "salesforce"

[programs.grand.audit]
personal_data = "hashed"
shows = ["city"]

[programs.grand.offers.spring]
bonus_percent = 50
bonus_points = 200
starts_at = 2027-03-01T00:00:00.250+01:00
ends_at = 2027-06-01T00:00:00Z
categories = ["room"]
segments = ["vip"]
tiers = ["MEMBER"]
period = "month"
uses_max = 3
cap_points = 600
budget_points = 1000000
reward = "gift"

[programs.grand.rewards.SPA-day_1]
points = 1000
valid_days = 365

[programs.grand.rewards.gift]
"""
EXPECTED = Program(
    program_id="grand",
    version=3,
    effective_from_ms=99,
    tiers=(Tier(name="MEMBER", threshold_points=0), Tier(name="GOLD", threshold_points=10000, earn_percent=125, reward_code="SPA-day_1")),
    time_zone="America/New_York",
    points_per_unit={"EUR": 10, "JPY": 1},
    points_per_night=7,
    rules=(
        EarnRule(
            rule_id="suite", points_per_unit={"EUR": 2}, points_per_night=3, points_per_stay=100, percent=10, categories=frozenset({"room", "suite"}),
            segments=frozenset({"corporate"}), tiers=frozenset({"GOLD"}), cap_points=5000, cap_period=Period.YEAR, stop=True,
        ),
    ),
    rounding=Rounding.HALF_UP,
    expiry=Expiry(rule=ExpiryRule.FIXED_DAY, month=3, day=31, days=180),
    pending_days=14,
    reversal=ReversalPolicy.UNLIMITED,
    refund_of_expired=RefundOfExpired.GRACE,
    refund_grace_days=12,
    hold_minutes=90,
    capture_while_suspended=True,
    earn_while_suspended=EarnWhileSuspended.REFUSE,
    mastering={"external_ids.*": "hr", "nickname": "local", "n*": "salesforce"},
    personal_data=PersonalData.HASHED,
    audit_shows=frozenset({"city"}),
    tier_policy=TierPolicy(window=Window.ROLLING, window_days=400, grace_days=60, demotion=Demotion.ONE_STEP, demote_on_reversal=True),
    offers={
        "spring": Offer(
            offer_id="spring", bonus_percent=50, bonus_points=200, starts_at_ms=1803855600250, ends_at_ms=1811808000000, categories=frozenset({"room"}),
            segments=frozenset({"vip"}), tiers=frozenset({"MEMBER"}), period=Period.MONTH, uses_max=3, cap_points=600, budget_points=1_000_000,
            reward_code="gift",
        )
    },
    rewards={"SPA-day_1": Reward(reward_code="SPA-day_1", points=1000, valid_days=365), "gift": Reward(reward_code="gift")},
    idempotency_days=45,
    voucher_key=b"key",
)  # fmt: skip


def table_of(text: str) -> dict[str, Any]:
    rules: dict[str, Any] = tomllib.loads(text)["programs"]["grand"]
    return rules


def parse_file(text: str) -> configuration.Configuration:
    return configuration.parse(tomllib.loads(text), file="loyalty.toml", text=text)


# ---- what is right

def test_every_field_reaches_the_domain() -> None:
    program = programs.parse("grand", table_of(FULL), version=3, effective_from_ms=99, voucher_key=b"key")
    assert program == EXPECTED
    defaults = Program(program_id="other", tiers=())
    # Nothing here is as it would be without being said: a field that parse() forgets is found.
    same = [field.name for field in dataclasses.fields(Program) if getattr(program, field.name) == getattr(defaults, field.name)]
    assert same == []


def test_what_is_left_out_has_the_domains_defaults() -> None:
    least = programs.parse("grand", {"tiers": [{"name": "MEMBER"}]})
    assert least == Program(program_id="grand", tiers=(Tier(name="MEMBER", threshold_points=0),))


@pytest.mark.parametrize(("window", "expected"), [("lifetime", True), ("calendar_year", False), ("membership_year", False), ("rolling", False)])
def test_reversals_demote_at_once_only_where_a_tier_has_no_end(window: str, expected: bool) -> None:
    assert programs.parse("grand", {"tiers": [{"name": "M"}], "tier_policy": {"window": window}}).tier_policy.demote_on_reversal is expected


@pytest.mark.parametrize("text", [FULL, EXAMPLE_FILE.read_text()], ids=["full", "example"])
def test_json_gives_an_equal_programme(text: str) -> None:
    rules = table_of(text)
    record = ProgramVersion(program_id="grand", version=3, effective_from_ms=99, rules=programs.to_json(rules), published_by="test")
    assert programs.from_record(record, b"key") == programs.parse("grand", rules, version=3, effective_from_ms=99, voucher_key=b"key")
    assert programs.to_json(json.loads(record.rules)) == record.rules


def test_equal_rules_have_equal_texts() -> None:
    one = {"a": datetime(2027, 3, 1, tzinfo=UTC), "b": {"x": 1, "y": "é"}}
    other = {"b": {"y": "é", "x": 1}, "a": datetime.fromisoformat("2027-03-01T01:00:00+01:00")}
    assert programs.to_json(one) == programs.to_json(other) == '{"a":"2027-03-01T00:00:00Z","b":{"x":1,"y":"é"}}'


@pytest.mark.parametrize("rules", ["{", "[]", '{"tiers":[]}'])
def test_a_published_version_that_cannot_be_read_is_named(rules: str) -> None:
    record = ProgramVersion(program_id="grand", version=3, effective_from_ms=1, rules=rules, published_by="test")
    with pytest.raises(ConfigurationError, match=r"programs\.grand"):
        programs.from_record(record, b"")


def test_the_example_is_right() -> None:
    parsed = parse_file(configuration.render_example(EXAMPLE_FILE.read_text()))
    grand = parsed.programs["grand"]
    assert (grand.points_per_unit, grand.tiers[1].earn_percent, grand.offers["double-points"].bonus_percent) == ({"EUR": 10, "USD": 9, "GBP": 11}, 125, 100)
    assert parsed.rules["staff"]["time_zone"] == "UTC"
    assert all("member-operations:write" in token.scopes for token in parsed.tokens)


# ---- what is wrong: (line of FULL, what stands there instead, place, what is said)

FAULTS = [
    ('name = "Grand Hotels"', "name = 1", "name", "must be a text, not a whole number"),
    ('name = "Grand Hotels"', 'voucher_key = "secret"', "voucher_key", "is not known here; known are audit, earn, expiry, "),
    ('time_zone = "America/New_York"', 'time_zone = "Berlin"', "time_zone", "must be a time zone of the IANA database such as Europe/Berlin, not 'Berlin'"),
    ('time_zone = "America/New_York"', 'time_zone = "Europe"', "time_zone", "must be a time zone"),
    ('time_zone = "America/New_York"', 'time_zone = "../etc"', "time_zone", "must be a time zone"),
    ("idempotency_days = 45", "idempotency_days = 29", "idempotency_days", "must be 30 or more, not 29"),
    ("idempotency_days = 45", "idempotency_days = 36501", "idempotency_days", "must be 36500 or less, not 36501"),
    ("points_per_unit = { EUR = 10, JPY = 1 }", "points_per_unit = { EURO = 10 }", "earn.points_per_unit.EURO", "is not a currency code of ISO 4217"),
    ("points_per_unit = { EUR = 10, JPY = 1 }", "points_per_unit = { EUR = 0 }", "earn.points_per_unit.EUR", "must be 1 or more, not 0"),
    ("points_per_night = 7", "points_per_night = -1", "earn.points_per_night", "must be 0 or more, not -1"),
    ("points_per_night = 7", "points_per_night = true", "earn.points_per_night", "must be a whole number, not true or false"),
    ('rounding = "half_up"', 'rounding = "up"', "earn.rounding", "must be one of floor, half_up, ceiling, not 'up'"),
    ("pending_days = 14", "pending_day = 14", "earn.pending_day", "is not known here"),
    ('id = "suite"', "", "earn.rules[0].id", "is required"),
    ('id = "suite"', 'id = "earn:suite"', "earn.rules[0].id", "must not begin with earn: or offer:"),
    ("percent = 10", "percent = 0", "earn.rules[0].percent", "must be 1 or more, not 0"),
    ('categories = ["room", "suite"]', 'categories = ["room", 1]', "earn.rules[0].categories[1]", "must be a text that is not empty"),
    ('categories = ["room", "suite"]', 'categories = ["a", "a"]', "earn.rules[0].categories[1]", "names 'a' a second time"),
    ('tiers = ["GOLD"]', 'tiers = ["GLOD"]', "earn.rules[0].tiers", "names 'GLOD', which is none of MEMBER, GOLD"),
    ('tiers = ["GOLD"]', "tiers = [{ name = 1 }]", "earn.rules[0].tiers", "names {'name': 1}, which is none of MEMBER, GOLD"),
    ("cap_points = 5000", "cap_points = 0", "earn.rules[0].cap_points", "must be 1 or more, not 0"),
    ("cap_points = 5000", "", "earn.rules[0].cap_period", "has no effect without cap_points"),
    ('cap_period = "year"', 'cap_period = "week"', "earn.rules[0].cap_period", "must be one of once, day, month, year, not 'week'"),
    ("stop = true", 'stop = "yes"', "earn.rules[0].stop", "must be true or false, not a text"),
    ("stop = true", '[[programs.grand.earn.rules]]\nid = "suite"\npercent = 1', "earn.rules[1].id", "is 'suite', as that of a rule before it"),
    ("stop = true", '[[programs.grand.earn.rules]]\nid = "b"', "earn.rules[1]", "gives nothing"),
    ('rule = "fixed_day"', "", "expiry.rule", "is required"),
    ('rule = "fixed_day"', 'rule = "never"', "expiry.month", "is not used by the rule never, which uses no number"),
    ('rule = "fixed_day"', 'rule = "end_of_year"', "expiry.years", "is required by the rule end_of_year"),
    ('rule = "fixed_day"', 'rule = "soon"', "expiry.rule", "must be one of never, after_days,"),
    ("month = 3\n", "month = 2\n", "expiry.day", "must be 28 or less in month 2, not 31"),
    ("month = 3\nday = 31", "month = 2\nday = 29", "expiry.day", "is 29 February, which most years do not have: take 28 February or 1 March"),
    ("month = 3\n", "month = 13\n", "expiry.month", "must be 12 or less, not 13"),
    ("day = 31", "day = 32", "expiry.day", "must be 31 or less, not 32"),
    ("day = 31", "", "expiry.day", "is required by the rule fixed_day"),
    ("threshold_points = 10000", "threshold_points = 0", "tiers[1].threshold_points", "must be more than those of the tier before it, 0, not 0"),
    ("threshold_points = 10000", "threshold = 10000", "tiers[1].threshold", "is not known here; known are earn_percent, name, reward, threshold_points"),
    ('name = "MEMBER"', 'name = "MEMBER"\nthreshold_points = 5', "tiers[0].threshold_points", "must be 0 for the first tier, in which members begin, not 5"),
    ('name = "MEMBER"', 'name = ""', "tiers[0].name", "must have 1 to 128 printable characters"),
    ('name = "MEMBER"', 'name = "GOLD"', "tiers[1].name", "is 'GOLD', as that of a tier before it"),
    ('reward = "SPA-day_1"', 'reward = "spa"', "tiers[1].reward", "names 'spa', which is none of SPA-day_1, gift"),
    ('window = "rolling"', 'window = "calendar_year"', "tier_policy.window_days", "has no effect unless window is 'rolling'"),
    ('demotion = "one_step"', 'demotion = "no"', "tier_policy.demotion", "must be one of one_step, balance_based, never, not 'no'"),
    ('policy = "unlimited"', 'policy = "all"', "reversal.policy", "must be one of only_pending, within_balance, unlimited, not 'all'"),
    ('of_expired = "grace"', 'of_expired = "expire_again"', "refund.grace_days", "has no effect unless of_expired is 'grace'"),
    ("minutes = 90", "minutes = 0", "holds.minutes", "must be 1 or more, not 0"),
    ("ends_at = 2027-06-01T00:00:00Z", "ends_at = 2027-02-01T00:00:00Z", "offers.spring.ends_at", "must be after starts_at"),
    ("ends_at = 2027-06-01T00:00:00Z", "ends_at = 2027-06-01T00:00:00", "offers.spring.ends_at", "needs a time zone, for example 2026-12-01T00:00:00Z"),
    ("ends_at = 2027-06-01T00:00:00Z", 'ends_at = "2027-06"', "offers.spring.ends_at", "must be a time with its zone such as 2026-12-01T00:00:00Z, not"),
    ("ends_at = 2027-06-01T00:00:00Z", 'ends_at = "2027-02-30T00:00:00Z"', "offers.spring.ends_at", "is not a time: day is out of range for month"),
    ("ends_at = 2027-06-01T00:00:00Z", "ends_at = 2027-06-01", "offers.spring.ends_at", "must be a time with its zone, not date"),
    ('period = "month"', 'period = "week"', "offers.spring.period", "must be one of once, day, month, year, not 'week'"),
    ("uses_max = 3", "uses_max = 0", "offers.spring.uses_max", "must be 1 or more, not 0"),
    ("cap_points = 600", "", "offers.spring.budget_points", "needs cap_points: every activation reserves that much of the budget"),
    ("budget_points = 1000000", "budget_points = 599", "offers.spring.budget_points", "must be 600 or more, the cap_points of one activation, not 599"),
    ("bonus_percent = 50\nbonus_points = 200", "", "offers.spring.cap_points", "has no effect without bonus_percent or bonus_points"),
    ("[programs.grand.rewards.gift]", "[programs.grand.offers.other]", "offers.other", "gives nothing: it needs bonus_percent, bonus_points or reward"),
    ("[programs.grand.rewards.gift]", "", "offers.spring.reward", "names 'gift', which is none of SPA-day_1"),
    ("[programs.grand.rewards.gift]", '[programs.grand.rewards."g i"]', 'rewards."g i"', "must be named with A-Z, a-z, 0-9, '-' and '_', 63"),
    ('earn = "refuse"', 'earn = "forbid"', "suspension.earn", "must be one of"),
    ('"n*" = "salesforce"', '"N*" = "salesforce"', 'mastering."N*"', "must be the name of an attribute, segments, status or external_ids.<type>"),
    ('"n*" = "salesforce"', 'tier = "salesforce"', "mastering.tier", "is what the ledger itself keeps, and nobody's to set"),
    ('"n*" = "salesforce"', '"n*" = ""', 'mastering."n*"', "must name a source system, or 'local', with 1 to"),
    ('personal_data = "hashed"', 'personal_data = "shown"', "audit.personal_data", "must be one of"),
    ("valid_days = 365", "valid_days = 0", "rewards.SPA-day_1.valid_days", "must be 1 or more, not 0"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "place", "what"), FAULTS, ids=[f"{place}: {new or 'without'}".replace("\n", " ") for _, new, place, _ in FAULTS])
def test_faults_are_named_with_line_and_place(old: str, new: str, place: str, what: str) -> None:
    assert FULL.count(old) == 1
    text = FULL.replace(old, new)
    with pytest.raises(ConfigurationError) as caught:
        parse_file(text)
    line = line_of(text, f"programs.grand.{place}")
    expected = f"loyalty.toml line {line}: programs.grand.{place} {what}"
    assert any(problem.startswith(expected) for problem in caught.value.problems), caught.value.problems
    # Where the fault is, the text says so.
    shown = text.splitlines()[(line or 0) - 1]
    last = place.rpartition(".")[2].partition("[")[0]
    assert last in shown or "is required" in what or place.startswith("earn.points_per_unit") or shown.startswith("["), shown


def test_the_line_is_that_of_the_file() -> None:
    text = FULL.replace("threshold_points = 10000", "threshold_points = -1")
    with pytest.raises(ConfigurationError) as caught:
        parse_file(text)
    line = 1 + text.splitlines().index("threshold_points = -1")
    assert caught.value.problems[0] == f"loyalty.toml line {line}: programs.grand.tiers[1].threshold_points must be 0 or more, not -1."


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = FULL
    for old, new in (("idempotency_days = 45", "idempotency_days = 1"), ("minutes = 90", "minutes = -5"), ("uses_max = 3", "uses = 3")):
        text = text.replace(old, new)
    with pytest.raises(ConfigurationError) as caught:
        parse_file(text)
    places = [problem.split()[3].removeprefix("programs.grand.") for problem in caught.value.problems]
    assert places == ["idempotency_days", "holds.minutes", "offers.spring.uses"]


def test_without_the_text_there_is_the_place() -> None:
    with pytest.raises(ConfigurationError) as caught:
        programs.parse("grand", {"tiers": [{"name": "M"}], "earn": {"rules": [{"id": "a", "percent": 1}, {"id": "b", "percent": 1, "cap_period": "day"}]}})
    assert caught.value.problems == ("programs.grand.earn.rules[1].cap_period has no effect without cap_points.",)


def test_a_programme_without_tiers_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"loyalty.toml line 1: programs\.grand\.tiers is required: one tier at least"):
        parse_file("[programs.grand]\n")


@pytest.mark.parametrize("wrong", [1, "x", [1], {"x": 1}, None, True, [[]]], ids=str)
@pytest.mark.parametrize("key", programs.PROGRAM_KEYS)
def test_no_value_is_so_wrong_that_it_raises_anything_else(key: str, wrong: Any) -> None:
    try:
        programs.parse("grand", table_of(FULL) | {key: wrong})
    except ConfigurationError:
        pass


# ---- the locator

SAMPLE = '''# a comment
top = 1
[a.b]   # [not.this]
c.d = 2
"e.f" = """
[a.b.fake]
x = 3
""" # over
list = [
  1, # ]
  "]", [2,
  3],
]
after = { x = 1, y = "}" }
[[a.list]]
n = 4
[a.list.sub]
n = 5
[[a.list]]
[a.list.sub]
n = 6
[[a.list.deep]]
[[a.list.deep]]
n = 7
[a]
last = \'\'\'it's \\'\'\'
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("top", 2), ("a", 25), ("a.b", 3), ("a.b.c", 4), ("a.b.c.d", 4), ('a.b."e.f"', 5), ("a.b.fake", 3), ("a.b.list", 9), ("a.b.list[1]", 9),
        ("a.b.after", 14), ("a.b.after.y", 14), ("a.list", 15), ("a.list[0]", 15), ("a.list[0].n", 16), ("a.list[0].sub.n", 18), ("a.list[1]", 19),
        ("a.list[1].sub", 20), ("a.list[1].sub.n", 21), ("a.list[1].deep[0]", 22), ("a.list[1].deep[1].n", 24), ("a.last", 26),
        ("a.list[1].n", 19), ("nothing", None), ("", None), ("top.deeper[3].still", 2),
    ],
)  # fmt: skip
def test_lines(path: str, line: int | None) -> None:
    tomllib.loads(SAMPLE)
    assert line_of(SAMPLE, path) == line
    assert line_of(SAMPLE.replace("\n", "\r\n"), path) == line


KEYS = st.one_of(st.sampled_from(["a", "b", "c", "x-1", "_"]), st.text(st.characters(exclude_categories=["Cs"]), max_size=4))
NOISE = st.sampled_from([
    "{n}", "'[a]'", '"]\\" # x = 1"', '"""\n[x]\ny = 2\\""" """', "'''\n[[z]]\n'''", "[ # ]\n 1,\n '[', ]", "{{ p = [1, '}}'] }}", "1979-05-27T07:32:00Z",
    '""', "''", '""""""', "''''''", '"""a""""', "'''b'''''", "[[1, 2], [\n]]", "-0.5e3", "[{{ a = 1 }},\n {{ b = 2 }}]",
])  # fmt: skip


class Writer:
    """Writes a tree as TOML in a random form, and remembers the line of each key that has a number."""

    def __init__(self, draw: Any) -> None:
        self.draw, self.lines, self.expected = draw, list[str](), dict[str, int]()

    def add(self, text: str) -> int:
        if self.draw(st.integers(0, 4)) == 0:
            self.lines.append(self.draw(st.sampled_from(["", "# [comment] x = 1 '''", "\t"])))
        first = len(self.lines) + 1
        self.lines += text.split("\n")
        return first

    def key(self, key: str) -> str:
        written = join("", key)
        plain = written == key and key.isascii()
        quoted = json.dumps(key, ensure_ascii=True) if not any(ord(c) > 0xFFFF or c == "\x7f" for c in key) else None
        if plain:
            return self.draw(st.sampled_from([key, f'"{key}"', f"'{key}'"]))
        return quoted or '"' + "".join(f"\\U{ord(c):08x}" for c in key) + '"'

    def body(self, place: str, header: str, depth: int) -> None:
        keys = self.draw(st.lists(KEYS, unique=True, max_size=4))
        for key in keys[:2]:
            value = self.draw(NOISE).format(n=len(self.lines))
            here = join(place, key)
            if self.draw(st.booleans()):
                self.expected[here] = self.add(f"{self.key(key)} = {value}")
            else:
                self.expected[f"{here}.dot"] = self.add(f" {self.key(key)} . dot={value} # end")
        for key in keys[2:] if depth else []:
            here, name = join(place, key), f"{header}.{self.key(key)}" if header else self.key(key)
            if self.draw(st.booleans()):
                self.expected[here] = self.add(f"[{name}]")
                self.body(here, name, depth - 1)
                continue
            for number in range(self.draw(st.integers(1, 3))):
                self.expected[f"{here}[{number}]"] = self.add(f"[[ {name} ]] # one")
                self.body(f"{here}[{number}]", name, depth - 1)


@given(st.data())
def test_lines_of_any_file(data: st.DataObject) -> None:
    writer = Writer(data.draw)
    writer.body("", "", 3)
    text = "\n".join(writer.lines)
    tomllib.loads(text)
    assert {path: line_of(text, path) for path in writer.expected} == writer.expected
