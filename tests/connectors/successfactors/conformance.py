"""SuccessFactors, as the conformance suites see it."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.connectors.conformance.inbound import SUSPENDED, Inbound, System, Understood, by_password, people
from tests.connectors.conformance.outbound import Outbound, hired


OUTBOUND = Outbound(
    kind="successfactors", program_id="staff", add=hired,
    values=lambda fake, member_id: fake.history[member_id, "cust_points"],
    strangers=lambda fake, members: fake.created,
    refuse=lambda fake, member_id: fake.codes[member_id].append(400),
)  # fmt: skip


async def _happen(system: System, step: int, chance: random.Random) -> None:
    """Somebody is hired, somebody has left: events tell of both, or only the jobs do."""
    tenant, secret = system.fake, system.source.options["secret"]
    tenant.hire(f"C-{step}")
    if chance.random() < 0.5:
        assert await tenant.push(system.webhook_url, secret, "Hire", f"C-{step}") == 200
    if step % 3 == 2:
        leaver = f"C-{step - 1}"
        tenant.leave(leaver, last_day=datetime.now(UTC).date() - timedelta(days=2))
        if chance.random() < 0.7:
            assert await tenant.push(system.webhook_url, secret, "Termination", leaver, repost=chance.random() < 0.5) == 200


def _expected(system: System) -> Understood:
    """Who has left before anybody read of them is not enrolled."""
    return {
        user_id: {"status": SUSPENDED} if "last_day" in user else {"enrolled": True}
        for user_id, user in system.fake.users.items() if user_id != BROKEN
    }  # fmt: skip


BROKEN = "C" * 100


async def _garble(system: System) -> None:
    system.fake.hire(BROKEN)


INBOUND = Inbound(
    kind="successfactors", happen=_happen, expected=_expected, understood=people, garble=_garble, proof=by_password, media_type="text/xml", crosses=True,
    samples=[(Path(__file__).parent / "payloads/termination.xml").read_bytes()],
)  # fmt: skip
