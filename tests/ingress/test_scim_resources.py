"""SCIM's variants of one change, and what an account looks like as a user."""

from typing import Any

import pytest
from scim2_models import Context, PatchOp

from schemas.records import Account, MemberStatus
from streams.configuration import Scim
from streams.ingress.scim.resources import ENTERPRISE, LoyaltyUser, changes, masters_elsewhere, member_id, read, show, version
from streams.ingress.scim.routes import TOLERANT, _mastered

SETTINGS = Scim()
PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
ACCOUNT = Account(
    program_id="grand", member_id="M-1", status=MemberStatus.ACTIVE, tier="MEMBER", enrolled_at_ms=0, profile_version=3,
    attributes={"given_name": "Ada", "email": "ada@example.com"}, external_ids={"scim_user_name": "ada", "employee": "21001"},
)  # fmt: skip


def patched(*operations: dict[str, Any]) -> tuple[dict[str, str | None], dict[str, str | None], bool | None]:
    """Changes of attributes and external ids, and `active`."""
    body = {"schemas": [PATCH_OP], "Operations": list(operations)}
    user = show(ACCOUNT, SETTINGS, "")
    before = read(user, SETTINGS)
    operation = PatchOp[LoyaltyUser].model_validate(body, scim_ctx=Context.RESOURCE_PATCH_REQUEST, scim_policy=TOLERANT)
    operation.patch(user, scim_policy=TOLERANT)
    after = read(user, SETTINGS)
    return changes(before.attributes, after.attributes), changes(before.external_ids, after.external_ids), after.active


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "active", "value": False},
        {"op": "Replace", "path": "active", "value": "False"},
        {"op": "replace", "path": "active", "value": "false"},
        {"op": "replace", "value": {"active": False}},
        {"op": "Replace", "value": {"active": "False"}},
    ],
)
def test_a_deactivation_in_every_variant(operation: dict[str, Any]) -> None:
    assert patched(operation) == ({}, {}, False)


@pytest.mark.parametrize(
    ("operation", "attributes", "external_ids"),
    [
        (
            {"op": "replace", "value": {"displayName": "x", "name.givenName": "y", f"{ENTERPRISE}:employeeNumber": "1"}},
            {"display_name": "x", "given_name": "y"}, {"employee": "1"},
        ),
        ({"op": "Add", "path": "name.familyName", "value": "Byron"}, {"family_name": "Byron"}, {}),
        ({"op": "replace", "path": 'emails[type eq "work"].value', "value": "a@example.org"}, {"email": "a@example.org"}, {}),
        ({"op": "remove", "path": 'emails[type eq "work"]'}, {"email": None}, {}),
        ({"op": "remove", "path": "name.givenName"}, {"given_name": None}, {}),
        ({"op": "replace", "path": "name.givenName", "value": "Ada"}, {}, {}),
    ],
)  # fmt: skip
def test_a_patch_speaks_of_what_it_changes(operation: dict[str, Any], attributes: dict[str, Any], external_ids: dict[str, Any]) -> None:
    assert patched(operation) == (attributes, external_ids, True)


def test_an_account_as_a_user() -> None:
    user = show(ACCOUNT, SETTINGS, "http://x/scim/v2/Users/M-1").model_dump(scim_ctx=Context.RESOURCE_QUERY_RESPONSE)
    assert (user["id"], user["userName"], user["active"], user["meta"]["version"]) == ("M-1", "ada", True, 'W/"3"')
    assert user[ENTERPRISE] == {"employeeNumber": "21001"}
    assert user["emails"] == [{"value": "ada@example.com", "type": "work", "primary": True}]
    assert version(ACCOUNT.but(available_points=5)) == 'W/"3"'


def test_the_primary_address_counts() -> None:
    user = LoyaltyUser.model_validate({"userName": "ada", "emails": [{"value": "first"}, {"value": "second", "primary": True}]})
    assert read(user, SETTINGS).attributes == {"email": "second"}


def test_a_user_name_makes_one_number_per_source() -> None:
    assert member_id("okta", "Ada") == member_id("okta", "ada") != member_id("entra", "ada")


def test_what_another_system_masters() -> None:
    mastering = {"email": "salesforce", "external_ids.*": "okta", "status": "darwinbox", "family_name": "local"}
    assert masters_elsewhere(mastering, "okta", SETTINGS) == {"emails": "salesforce", "active": "darwinbox"}
    told = _mastered(SETTINGS, "family_name is mastered by salesforce; status is mastered by hr")
    assert told == (
        "Attribute 'name.familyName' is readOnly: family_name is mastered by salesforce; Attribute 'active' is readOnly: status is mastered by hr"
    )
