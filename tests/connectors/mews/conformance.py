"""Mews, as the conformance suites see it."""

import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tests.connectors.conformance.inbound import Inbound, System, Understood, by_url_token, stays
from tests.connectors.conformance.outbound import Outbound


async def happen(system: System, step: int, chance: random.Random) -> None:
    """A stay ends. Of some the webhook is lost, of some the WebSocket tells, too; the poll finds the rest."""
    query, _ = by_url_token(system.source, b"")
    reservation_id = system.fake.add_reservation(member_id=f"M-{step}", amount=f"{100 + step}.50")
    await system.fake.set_state(reservation_id, "Processed", endpoint_url=system.webhook_url + query if chance.random() < 0.6 else "")


def expected(system: System) -> Understood:
    members = {account_id: membership["MembershipNumber"] for account_id, membership in system.fake.memberships.items()}
    return {
        f"mews:{reservation_id}:stay": ("EARN", members[reservation["AccountId"]], int(system.fake.items[reservation_id][0]["Amount"]["GrossValue"] * 100))
        for reservation_id, reservation in system.fake.reservations.items() if reservation["State"] == "Processed" and reservation_id != BROKEN
    }  # fmt: skip


BROKEN = "00000000-0000-0000-0000-000000000000"


async def garble(system: System) -> None:
    reservation_id = system.fake.add_reservation(member_id="M-broken", currency="SHELLS")
    for things in (system.fake.reservations, system.fake.items):
        things[BROKEN] = things.pop(reservation_id)
    system.fake.reservations[BROKEN]["Id"] = BROKEN
    await system.fake.set_state(BROKEN, "Processed")


INBOUND = Inbound(
    kind="mews", happen=happen, expected=expected, understood=stays, garble=garble, proof=by_url_token,
    samples=[(Path(__file__).parent / "payloads/webhook.json").read_bytes()],
)  # fmt: skip


def _add(fake: Any, member_id: str) -> Mapping[str, str]:
    account_id = fake.add_member(member_id)
    return {"mews_membership": fake.memberships[account_id]["Id"]}


def _membership(fake: Any, member_id: str) -> str:
    return str(next(one["Id"] for one in fake.memberships.values() if one["MembershipNumber"] == member_id))


def _strangers(fake: Any, members: Collection[str]) -> Collection[str]:
    known = {one["Id"] for one in fake.memberships.values()}
    return [record for record in fake.values if record not in known]


OUTBOUND = Outbound(
    kind="mews", program_id="grand", add=_add,
    values=lambda fake, member_id: fake.history[_membership(fake, member_id), "Points"],
    strangers=_strangers,
    refuse=lambda fake, member_id: fake.values.pop(_membership(fake, member_id)),
)  # fmt: skip
