"""SCIM's User and the account, each as the other. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from scim2_models import URN, ComplexAttribute, Extension, Meta, Required, Resource, Uniqueness
from scim2_models.path import Comparison, LogicalExpr, ValuePath

from schemas.contract import EXTERNAL_IDS_PREFIX
from schemas.records import Account, MemberStatus
from streams.configuration import Scim
from streams.domain.mastering import STATUS, master_of

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
ID_CHARACTERS = 32


class Name(ComplexAttribute):
    given_name: str | None = None
    family_name: str | None = None


class Value(ComplexAttribute):
    """An e-mail address or a phone number. One of each is kept, as it was sent: the primary one, or else the first."""

    value: str | None = None
    type: str | None = None
    primary: bool | None = None


class Enterprise(Extension):
    __schema__ = URN(ENTERPRISE)

    employee_number: str | None = None


class LoyaltyUser(Resource[Enterprise]):
    """The attributes of RFC 7643 that a profile has. Others are ignored, and are not in /Schemas."""

    __schema__ = URN(USER)

    user_name: Annotated[str | None, Uniqueness.server, Required.true] = None
    name: Name | None = None
    display_name: str | None = None
    emails: list[Value] | None = None
    phone_numbers: list[Value] | None = None
    locale: str | None = None
    timezone: str | None = None
    active: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a user resource says of a profile, by part."""

    attributes: Mapping[str, str]
    external_ids: Mapping[str, str]
    active: bool | None


ATTRIBUTES = {
    "name.givenName": "given_name", "name.familyName": "family_name", "displayName": "display_name", "emails": "email", "phoneNumbers": "phone",
    "locale": "locale", "timezone": "time_zone",
}  # fmt: skip
"""SCIM's attribute -> the profile's."""

TYPE, TYPE_DEFAULT, PRIMARY = ".type", "work", ".primary"
"""Beside `email` and `phone`, the profile has `email.type` where the type is not the default, and `email.primary` where that was denied."""


def parts_by_path(settings: Scim) -> dict[str, str]:
    """SCIM's attribute -> the part of the profile, in the names that mastering uses."""
    external_ids = {
        "userName": settings.user_name_type, "externalId": settings.external_id_type, f"{ENTERPRISE}:employeeNumber": settings.employee_type,
    }  # fmt: skip
    return ATTRIBUTES | {path: EXTERNAL_IDS_PREFIX + kind for path, kind in external_ids.items()} | {"active": STATUS}


def equalities(node: Any, settings: Scim) -> dict[str, str]:
    """SCIM's attribute -> the text that a filter, whose tree this is, asks it to be in any case; `id` is among them."""
    if isinstance(node, LogicalExpr):
        terms = node.terms if node.op == "and" else ()
        return {path: text for term in terms for path, text in equalities(term, settings).items()}
    if isinstance(node, ValuePath):
        terms = node.val_filter.terms if isinstance(node.val_filter, LogicalExpr) and node.val_filter.op == "and" else (node.val_filter,)
        texts = [one.value for one in terms if isinstance(one, Comparison) and one.op == "eq" and str(one.attr_path).lower() == "value"]
        return _known(str(node.attr_path), texts[0], settings) if texts and isinstance(texts[0], str) else {}
    if isinstance(node, Comparison) and node.op == "eq" and isinstance(node.value, str):
        return _known(str(node.attr_path), node.value, settings)
    return {}


def _known(path: str, text: str, settings: Scim) -> dict[str, str]:
    name = path.lower().removeprefix(f"{USER}:".lower())
    if name in ("emails.value", "phonenumbers.value"):
        name = name.removesuffix(".value")
    return {known: text for known in ("id", *parts_by_path(settings)) if known.lower() == name and known != "active"}


def masters_elsewhere(mastering: Mapping[str, str], source_system: str, settings: Scim) -> dict[str, str]:
    """SCIM's attribute -> the other system that masters it."""
    masters = {path: master_of(mastering, part) for path, part in parts_by_path(settings).items()}
    return {path: master for path, master in masters.items() if master is not None and master != source_system}


def read(user: LoyaltyUser, settings: Scim) -> Said:
    """What a user resource says. Texts that are empty say nothing."""
    name, enterprise = user.name or Name(), user[Enterprise] or Enterprise()
    attributes = {
        "given_name": name.given_name, "family_name": name.family_name, "display_name": user.display_name, "locale": user.locale,
        "time_zone": user.timezone, **_one("email", user.emails), **_one("phone", user.phone_numbers),
    }  # fmt: skip
    external_ids = {
        settings.user_name_type: user.user_name, settings.external_id_type: user.external_id, settings.employee_type: enterprise.employee_number,
    }  # fmt: skip
    return Said(
        attributes={key: value for key, value in attributes.items() if value},
        external_ids={key: value for key, value in external_ids.items() if value},
        active=user.active,
    )


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """What makes one the other: new values, and null for what is gone. What is the same is not spoken of."""
    gone: dict[str, str | None] = dict.fromkeys(before.keys() - after.keys())
    return gone | {key: value for key, value in after.items() if before.get(key) != value}


def show(account: Account, settings: Scim, location: str) -> LoyaltyUser:
    """The user resource of an account. `location`: its URL."""
    attributes, external_ids = account.attributes, account.external_ids
    name = Name(given_name=attributes.get("given_name"), family_name=attributes.get("family_name"))
    user = LoyaltyUser(
        id=account.member_id,
        external_id=external_ids.get(settings.external_id_type),
        # Who was enrolled in another way has no userName, and SCIM requires one.
        user_name=external_ids.get(settings.user_name_type) or account.member_id,
        name=name if name.given_name or name.family_name else None,
        display_name=attributes.get("display_name"),
        emails=_many("email", attributes),
        phone_numbers=_many("phone", attributes),
        locale=attributes.get("locale"),
        timezone=attributes.get("time_zone"),
        active=account.status is MemberStatus.ACTIVE,
        meta=Meta(resource_type="User", location=location, version=version(account)),
    )
    if settings.employee_type in external_ids:
        user[Enterprise] = Enterprise(employee_number=external_ids[settings.employee_type])
    return user


def version(account: Account) -> str:
    """The weak ETag: points come and go without changing it."""
    return f'W/"{account.profile_version}"'


def member_id(source_system: str, user_name: str) -> str:
    """The number of a new member: the same for the same source and userName, so that a repeated POST makes one member."""
    return sha256(f"{source_system}\n{user_name.casefold()}".encode()).hexdigest()[:ID_CHARACTERS]


def _one(name: str, values: list[Value] | None) -> dict[str, str | None]:
    chosen = sorted((one for one in values or () if one.value), key=lambda one: not one.primary)
    if not chosen:
        return {}
    kept = chosen[0]
    return {
        name: kept.value, name + TYPE: kept.type if kept.type != TYPE_DEFAULT else None, name + PRIMARY: "false" if kept.primary is False else None,
    }  # fmt: skip


def _many(name: str, attributes: Mapping[str, str]) -> list[Value] | None:
    if name not in attributes:
        return None
    return [Value(value=attributes[name], type=attributes.get(name + TYPE, TYPE_DEFAULT), primary=attributes.get(name + PRIMARY) != "false")]
