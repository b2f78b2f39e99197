"""Booking engines by OTA_HotelResNotif, as the conformance suite sees them."""

import random
from pathlib import Path

from infra.fakes.booking_engine import BookingEngineFake
from tests.connectors.conformance.inbound import Inbound, System, Understood, by_password, stays


async def happen(system: System, step: int, chance: random.Random) -> None:
    """A booking, sometimes told twice; some are cancelled."""
    for _ in range(chance.choice((1, 2))):
        assert (await system.fake.book(f"BK-{step}", member_id=f"M-{step}", amount=f"{100 + step}.50")).is_success
    if step % 3 == 2:
        assert (await system.fake.cancel(f"BK-{step}", member_id=f"M-{step}")).is_success


def expected(system: System) -> Understood:
    name = system.source.name
    steps = [int(booking_id.removeprefix("BK-")) for booking_id in system.fake.booked_at]
    found: dict[str, object] = {f"{name}:BK-{step}:booking": ("EARN", f"M-{step}", 10_050 + step * 100) for step in steps}
    return found | {f"{name}:BK-{step}:cancellation": ("REVERSE", f"M-{step}", None) for step in steps if step % 3 == 2}


INBOUND = Inbound(
    kind="ota", make=lambda source, url: BookingEngineFake(url, source.options["secret"]), happen=happen, expected=expected, understood=stays,
    proof=by_password, samples=[path.read_bytes() for path in sorted((Path(__file__).parent / "payloads").iterdir())], media_type="application/xml",
)  # fmt: skip
