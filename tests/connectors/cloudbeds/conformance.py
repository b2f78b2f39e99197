"""Cloudbeds, as the conformance suite sees it."""

import random
from pathlib import Path

from tests.connectors.conformance.inbound import Inbound, System, Understood, by_url_token, stays


async def prepare(system: System) -> None:
    query, _ = by_url_token(system.source, b"")
    system.fake.subscribe(system.webhook_url + query)


async def happen(system: System, step: int, chance: random.Random) -> None:
    """A stay ends; everybody hears of it twice. Or it is called off."""
    reservation_id = f"23269253{step:05}"
    system.fake.add_reservation(reservation_id, member_id=f"M-{step}", total=f"{100 + step}.50")
    await system.fake.set_status(reservation_id, "canceled" if step % 4 == 3 else "checked_out")


def expected(system: System) -> Understood:
    return {
        f"cloudbeds:{reservation_id}:stay": (
            "EARN", reservation["guestList"]["77"]["customFields"][0]["customFieldValue"], int(float(reservation["total"]) * 100)
        )
        for reservation_id, reservation in system.fake.reservations.items() if reservation["status"] == "checked_out" and reservation_id != BROKEN
    }  # fmt: skip


BROKEN = "999"


async def garble(system: System) -> None:
    system.fake.add_reservation(BROKEN, member_id="M-broken", total="1")
    system.fake.reservations[BROKEN]["balanceDetailed"] = {"grandTotal": "much"}
    await system.fake.set_status(BROKEN, "checked_out")


INBOUND = Inbound(
    kind="cloudbeds", prepare=prepare, happen=happen, expected=expected, understood=stays, garble=garble, proof=by_url_token,
    samples=[(Path(__file__).parent / "payloads/status_changed.json").read_bytes()],
)  # fmt: skip
