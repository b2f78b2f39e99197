"""Keys, ids, hashes and voucher codes: stable for ever, so their values are pinned here."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import LineItem
from streams.domain import identity, vouchers
from tests.domain.shell import activate, change, earn, enrol, redeem

PRINTABLE = st.text(min_size=1, max_size=8).filter(str.isprintable)


def test_keys() -> None:
    assert identity.outcome_key("grand", "m-1", earn(1, transaction_id="t1")) == b"grand/m-1\x00t:t1"
    assert identity.outcome_key("grand", "m-1", enrol("t1")) == b"grand/m-1\x00e:t1"
    assert identity.outcome_key("grand", "m-1", activate("double", "t1")) == b"grand/m-1\x00e:t1"
    assert identity.transaction_key("grand", "m/ü", "t:1") == "grand/m/ü\x00t:t:1".encode()


@given(st.tuples(PRINTABLE, PRINTABLE), st.tuples(PRINTABLE, PRINTABLE))
def test_keys_of_different_commands_differ(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = [identity.transaction_key("grand", *ids) for ids in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@pytest.mark.parametrize(
    ("command", "digest"),
    [
        (enrol("e1", attributes={"b": "2", "a": "ü"}, segments=("x",)), "792896b02c72674b70cb4e2f356ecb36"),
        (earn(100, transaction_id="t1"), "b90ac5806717aa24a4e52ba35a06340e"),
        (
            earn(amount_minor=1, currency="EUR", transaction_id="t1", line_items=(LineItem(amount_minor=1, sku="a"),)),
            "3b69a6e8f79560a21095bdfe95181045",
        ),
        (change("e1", attributes={"a": None}), "d906f3430f1c8a02032d26a442cf7e0b"),
        (activate("double", "e1"), "2920b496a937c261b4d6af220fdb681b"),
    ],
    ids=["enrolment", "earn", "sale", "change", "activation"],
)
def test_hashes_are_pinned(command: object, digest: str) -> None:
    """A hash that changes turns repetitions of commands from before into conflicts."""
    assert identity.payload_hash(command) == digest  # type: ignore[arg-type]


def test_times_and_the_order_of_names_do_not_count() -> None:
    command = enrol("e1", attributes={"a": "1", "b": "2"})
    same = replace(command, occurred_at_ms=99, attributes={"b": "2", "a": "1"})
    assert identity.payload_hash(command) == identity.payload_hash(same)


@pytest.mark.parametrize(
    "other",
    [
        {"points": 101}, {"transaction_id": "t2"}, {"source_system": "crm"}, {"nights": 0}, {"category": ""}, {"reason": "x"},
        {"member_id": "m-2"}, {"line_items": (LineItem(amount_minor=1),)},
    ],
    ids=str,
)  # fmt: skip
def test_everything_else_counts(other: dict[str, object]) -> None:
    command = earn(100, transaction_id="t1")
    assert identity.payload_hash(replace(command, **other)) != identity.payload_hash(command)  # type: ignore[arg-type]


def test_unchanged_and_emptied_segments_differ() -> None:
    assert identity.payload_hash(change("e", segments=())) != identity.payload_hash(change("e", segments=None))


def test_a_cleared_and_an_absent_attribute_differ() -> None:
    assert identity.payload_hash(change("e", attributes={"a": None})) != identity.payload_hash(change("e", attributes={}))


def test_ids_are_pinned() -> None:
    assert identity.event_id("grand", "m-1", 1) == "evt_x3vxrdh6fetuuwbzj7ndzjxrr6"
    assert identity.entry_id("grand", "m-1", 1) == "ent_x3vxrdh6fetuuwbzj7ndzjxrr6"


def test_ids_are_fit_for_signatures() -> None:
    ids = {identity.event_id(program, member, number) for program in ("a", "ab") for member in ("b", "", "bb") for number in range(50)}
    assert len(ids) == 300
    assert all(re.fullmatch(r"evt_[a-z2-7]{26}", one) for one in ids)


def test_voucher_codes_are_pinned() -> None:
    """A code that changes on a rebuild would be a second voucher for one payment."""
    assert vouchers.voucher_code(b"key", "grand", "m-1", "t1") == "E37H-RX1Y-A091-966KE"


def test_voucher_codes_depend_on_every_part_and_on_where_it_ends() -> None:
    parts = [(b"key", "a", "b", "c"), (b"kez", "a", "b", "c"), (b"key", "ab", "", "c"), (b"key", "a", "bc", ""), (b"key", "a", "b", "d")]
    assert len({vouchers.voucher_code(*part) for part in parts}) == len(parts)


@given(st.binary(max_size=40), PRINTABLE, PRINTABLE)
def test_the_check_character_finds_typing_errors(key: bytes, member_id: str, transaction_id: str) -> None:
    code = vouchers.voucher_code(key, "grand", member_id, transaction_id)
    alphabet = vouchers.ALPHABET
    assert re.fullmatch(rf"([{alphabet}]{{4}}-){{3}}[{alphabet}]{{5}}", code)
    plain = code.replace("-", "")
    body, check = plain[:-1], plain[-1]
    assert vouchers.check_character(body) == check
    for at, character in enumerate(body):
        wrong = alphabet[(alphabet.index(character) + 1 + at) % 32]
        assert vouchers.check_character(body[:at] + wrong + body[at + 1 :]) != check
        for other in range(at + 1, len(body)):
            swapped = list(body)
            swapped[at], swapped[other] = body[other], body[at]
            assert swapped == list(body) or vouchers.check_character("".join(swapped)) != check


def test_a_redemption_sent_again_gives_the_same_code() -> None:
    codes = {vouchers.voucher_code(b"key", c.program_id, c.member_id, c.transaction_id) for c in (redeem(1, transaction_id="t"),) * 3}
    assert len(codes) == 1
