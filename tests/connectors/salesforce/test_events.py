"""Platform events -> transactions and profile changes, by configured fields."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import problems
from schemas.records import MemberStatus, ProfileChange, Transaction, TransactionKind
from streams.connectors.contract import Source, Translation
from streams.connectors.salesforce import events, inbound
from streams.errors import ConfigurationError, ContractError
from tests.connectors.salesforce.cases import PURCHASES, delivery, source

FIELDS = {
    "transaction_id": "Order_Number__c", "member_id": "Member__c", "kind": "=EARN", "amount": "Amount__c", "currency": "Currency__c",
    "category": "Category__c", "nights": "Nights__c",
}  # fmt: skip
PROFILE_FIELDS = {
    "member_id": "Member__c", "attributes.tier_wish": "Wish__c", "external_ids.card": "Card__c", "segments": "Segments__c", "status": "Status__c",
    "status_from": "From__c", "source_version": "Version__c",
}  # fmt: skip
PURCHASE = {
    "CreatedDate": "2026-11-22T03:40:00.000Z", "CreatedById": "0055f000005mc66AAA", "Order_Number__c": "1001", "Member__c": "M-1", "Currency__c": "EUR",
    "Category__c": "spa", "Amount__c": 260.5, "Nights__c": 2.0,
}  # fmt: skip


def purchases(**fields: str) -> Source:
    return source(transaction_topics=[PURCHASES], transaction_fields=FIELDS | fields)


def profiles() -> Source:
    return source(profile_topics=["/event/Change__e"], profile_fields=PROFILE_FIELDS)


def relayed(of: Source, payload: dict[str, Any], topic: str = PURCHASES) -> Translation:
    return inbound.translate(delivery(orjson.dumps({"payload": payload, "event": {"EventUuid": "3f1c", "replayId": 5}}), topic=topic), of)


def test_a_purchase_is_a_transaction() -> None:
    (earn,) = relayed(purchases(), PURCHASE).commands
    assert earn == Transaction(
        program_id="staff", member_id="M-1", transaction_id="salesforce:1001", source_system="salesforce", occurred_at_ms=1795318800000,
        kind=TransactionKind.EARN, amount_minor=26050, currency="EUR", category="spa", nights=2,
    )  # fmt: skip


def test_without_a_number_of_its_own_it_has_that_of_the_event() -> None:
    (earn,) = relayed(purchases(), {name: value for name, value in PURCHASE.items() if name != "Order_Number__c"}).commands
    assert isinstance(earn, Transaction) and earn.transaction_id == "salesforce:3f1c"


def test_a_reversal_names_the_purchase_that_it_takes_back() -> None:
    refund = purchases(kind="Kind__c", reverses_transaction_id="Refunds__c", amount="None__c", nights="None__c", currency="None__c", category="None__c")
    (reverse,) = relayed(refund, PURCHASE | {"Kind__c": "REVERSE", "Order_Number__c": "1002", "Refunds__c": "1001"}).commands
    assert isinstance(reverse, Transaction)
    assert (reverse.kind, reverse.reverses_transaction_id) == (TransactionKind.REVERSE, "salesforce:1001")


def test_a_profile_change_says_what_has_a_value() -> None:
    payload = {
        "CreatedDate": "2026-11-22T03:40:00.000Z", "Member__c": "M-1", "Wish__c": "GOLD", "Card__c": None, "Segments__c": "b;a", "Status__c": "Left",
        "From__c": "2026-12-01T00:00:00.000Z", "Version__c": 7.0,
    }  # fmt: skip
    (change,) = relayed(profiles(), payload, "/event/Change__e").commands
    assert change == ProfileChange(
        program_id="staff", member_id="M-1", event_id="salesforce:3f1c", source_system="salesforce", occurred_at_ms=1795318800000, source_version=7,
        attributes={"tier_wish": "GOLD"}, segments=("b", "a"), status=MemberStatus.LEFT, status_from_ms=1796083200000,
    )  # fmt: skip


@pytest.mark.parametrize(("payload", "topic"), [(PURCHASE | {"Member__c": None}, PURCHASES), (PURCHASE, "/event/Other__e"), (PURCHASE, "")])
def test_what_is_of_nobody_or_of_no_topic_means_nothing(payload: dict[str, Any], topic: str) -> None:
    assert relayed(purchases(), payload, topic).ignored


@pytest.mark.parametrize("wrong", [
    {"Amount__c": "x"}, {"Amount__c": True}, {"Amount__c": -1}, {"Currency__c": "QQQ"}, {"Currency__c": None}, {"Nights__c": 1.5}, {"Nights__c": True},
    {"CreatedDate": "yesterday"}, {"Member__c": ["a"]}, {"Order_Number__c": "x" * 200},
])  # fmt: skip
def test_a_purchase_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        relayed(purchases(), PURCHASE | wrong)


@pytest.mark.parametrize("options", [
    {"transaction_topics": [PURCHASES]}, {"transaction_topics": [PURCHASES], "transaction_fields": {"member_id": "Member__c"}},
    {"profile_topics": ["/event/Change__e"], "profile_fields": {"status": "Status__c"}},
])  # fmt: skip
async def test_events_are_not_passed_over_for_want_of_an_option(options: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="OPTION_MISSING"):
        relayed(source(**options), PURCHASE)
    with pytest.raises(ConfigurationError, match="does not say where"):
        await anext(inbound.listen(source(**options), {}, None))  # type: ignore[arg-type]


_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["M-1", "EUR", "2026-11-22T03:40:00Z", "Left"])
_PLACES = st.sampled_from(sorted(set(FIELDS.values()) | set(PROFILE_FIELDS.values()) | {"CreatedDate"}))


@given(st.dictionaries(_PLACES, _VALUES))
def test_any_event_is_understood_or_refused(payload: dict[str, Any]) -> None:
    for of, topic in ((purchases(), PURCHASES), (profiles(), "/event/Change__e")):
        try:
            found = events.commands_of(topic, {"Member__c": "M-1"} | payload, "1", of, 1)
        except ContractError:
            continue
        assert [problem for command in found for problem in problems(command)] == []
