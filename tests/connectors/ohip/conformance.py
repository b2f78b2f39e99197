"""OPERA, as the conformance suites see it."""

import random
from collections.abc import Mapping
from typing import Any

from streams.connectors.ohip import CONNECTOR
from tests.connectors.conformance.inbound import Inbound, System, Understood, stays
from tests.connectors.conformance.outbound import Outbound

_DEFAULTS = {option.name: option.default for option in CONNECTOR.target_options}


def _add(fake: Any, member_id: str) -> Mapping[str, str]:
    fake.profiles.add(f"P-{member_id}")
    return {_DEFAULTS["profile_id_type"]: f"P-{member_id}"}


OUTBOUND = Outbound(
    kind="ohip", program_id="grand", add=_add,
    values=lambda fake, member_id: fake.history[f"P-{member_id}", _DEFAULTS["points_field"]],
    strangers=lambda fake, members: fake.values.keys() - {f"P-{member_id}" for member_id in members},
    refuse=lambda fake, member_id: fake.profiles.discard(f"P-{member_id}"),
)  # fmt: skip


async def _happen(system: System, step: int, chance: random.Random) -> None:
    """A stay ends, or is called off. What the queue loses with a broken connection, the search for departures finds."""
    system.fake.add_reservation(f"C-{step}", member_id=f"M-{step}", amount=f"{100 + step}.50")
    await system.fake.set_status(f"C-{step}", "Cancelled" if step % 4 == 3 else "CheckedOut")


def _expected(system: System) -> Understood:
    return {
        f"{system.source.name}:{system.fake.hotel_id}-{reservation_id}:stay": (
            "EARN", one["reservationMemberships"]["reservationMembership"][0]["membershipId"], int(one["roomStay"]["total"]["amountAfterTax"] * 100)
        )
        for reservation_id, one in system.fake.reservations.items() if one["reservationStatus"] == "CheckedOut" and reservation_id != BROKEN
    }  # fmt: skip


BROKEN = "C-broken"


async def _garble(system: System) -> None:
    system.fake.add_reservation(BROKEN, member_id="M-broken", currency="SHELLS")
    await system.fake.set_status(BROKEN, "CheckedOut")


INBOUND = Inbound(kind="ohip", happen=_happen, expected=_expected, understood=stays, garble=_garble)
