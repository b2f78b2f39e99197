"""Apaleo, as the conformance suite sees it."""

import random
from pathlib import Path
from typing import Any

from tests.connectors.conformance.inbound import Inbound, System, Understood, by_password, stays


async def prepare(system: System) -> None:
    url = system.webhook_url.replace("http://", f"http://pms:{system.source.options['secret']}@")
    await system.fake.subscribe(url)


async def happen(system: System, step: int, chance: random.Random) -> None:
    """Somebody checks out; sometimes it is told twice, or the stay is taken back."""
    reservation_id = f"CONF-{step}"
    system.fake.add_reservation(reservation_id, member_id=f"M-{step}", amount=f"{100 + step}.50")
    event = await system.fake.check_out(reservation_id)
    if chance.random() < 0.3:
        await system.fake.send(system.fake.subscriptions[0].endpoint_url, event)
    if step % 3 == 2:
        await system.fake.revert_check_in(reservation_id)


def expected(system: System) -> Understood:
    """Of a stay that is taken back before its check-out was read, nothing but the reversal may be known."""
    found: dict[str, Any] = {}
    for reservation_id, reservation in system.fake.reservations.items():
        step = reservation_id.removeprefix("CONF-")
        if reservation["status"] == "CheckedOut":
            found[f"apaleo:{reservation_id}:stay"] = ("EARN", f"M-{step}", int(reservation["totalGrossAmount"]["amount"] * 100))
        elif reservation_id.startswith("CONF-"):
            found[f"apaleo:{reservation_id}:stay-reversal"] = ("REVERSE", f"M-{step}", None)
    return found


async def garble(system: System) -> None:
    system.fake.add_reservation("BROKEN", member_id="M-broken", currency="SHELLS")
    await system.fake.tell("canceled", "BROKEN")
    system.fake.modify_reservation("BROKEN", status="CheckedOut", totalGrossAmount=["much"])
    await system.fake.tell("checked-out", "BROKEN")
    del system.fake.reservations["BROKEN"]


INBOUND = Inbound(
    kind="apaleo", prepare=prepare, happen=happen, expected=expected, understood=stays, garble=garble, proof=by_password,
    samples=[(Path(__file__).parent / "payloads" / name).read_bytes() for name in ("checked_out.json", "healthcheck.json", "folio.json")],
)  # fmt: skip
