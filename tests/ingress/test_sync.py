"""GET /v1/sync: what `loyalty sync status --json` says."""

import pytest

from streams.codec import open_codec
from streams.scheduling.cadence import Cadence
from streams.sync import names, outbound
from tests.ingress.support import TOKENS, Service

pytestmark = pytest.mark.stack

NAME = "profile-changes/nobody"  # Of a source that no other test speaks for.


async def test_streams_and_jobs_with_their_cadences_and_runs(service: Service) -> None:
    record = outbound.recorder(service.settings, open_codec(service.settings), "history/dead-letters", lambda: Cadence(every_s=900))
    await record(900_000, 900_100, 3)
    service.run(service.parts.sync.set_cadence(NAME, {"every": "15m", "window": "01:00-05:00"}, changed_by="a test"))
    try:
        answer = await service.request("GET", "/v1/sync", token=TOKENS["operator"])
    finally:
        service.run(service.parts.sync.reset_cadence(NAME, changed_by="a test"))
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    rows = {row["name"]: row for row in answer.json}
    assert {*names.INBOUND, *names.OUTBOUND, "transactions", "redis", "reconcile", "report/liability"} <= rows.keys()
    assert (rows[NAME]["mode"], rows[NAME]["window"], rows[NAME]["set_by"], rows[NAME]["backlog"]) == ("every", "01:00-05:00", "a test", 0)
    assert (rows["history/dead-letters"]["last"]["rows"], rows["history/dead-letters"]["last_write_at"]) == (3, None)
    assert rows["report/liability"]["kind"] == "job" and rows["report/liability"]["next_at"]


async def test_a_token_needs_the_scope(service: Service) -> None:
    assert (await service.request("GET", "/v1/sync", token=TOKENS["reader"])).status == 403
    assert (await service.request("GET", "/v1/sync", token=None)).status == 401
