"""The document of an export, from a worker and a ClickHouse that answer as they are told: pages, merged numbers, and answers that break off."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from streams.errors import UnavailableError
from streams.observability import serve
from streams.personal_data.export import Subject, document
from streams.personal_data.sources import Sources
from streams.settings import Settings

TOKEN = "token-between-processes"


class Stubs:
    """A worker and a ClickHouse in one."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.answers: dict[str, bytes] = {}
        """Table -> lines."""
        self.asked: list[dict[str, str]] = []
        self.url = ""

    async def page(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        found = self.pages.get(request.match_info["member"] + request.query.get("after", ""))
        return web.json_response(found) if found is not None else web.json_response({}, status=421)

    async def query(self, request: web.Request) -> web.Response:
        asked = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append(asked)
        if "system.tables" in asked["query"]:
            return web.Response(text='{"name":"ledger_entries"}\n{"name":"sync_audit"}\n')
        table = asked.get("param_table", "dead_letters")
        return web.Response(body=self.answers.get(f"{table}:{asked['param_member_id']}", b""))

    def settings(self) -> Settings:
        return Settings(worker_urls=f"http://127.0.0.1:9,{self.url}", clickhouse_url=self.url, internal_token=TOKEN)


@pytest.fixture
async def stubs() -> AsyncIterator[Stubs]:
    stubs, app = Stubs(), web.Application()
    app.router.add_get("/internal/export/{program}/{member:[^/]+}", stubs.page)
    app.router.add_post("/", stubs.query)
    runner = await serve(app, "127.0.0.1", 0)
    stubs.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield stubs
    await runner.cleanup()


def page(*moved_from: str, outcomes: int = 0, following: str | None = None) -> dict[str, Any]:
    return {
        "account": {"moved_from": list(moved_from)}, "waiting": [], "vouchers": [], "outcomes": [{"id": f"t:{n}"} for n in range(outcomes)],
        "rows_to_forget": 0, "next": following,
    }  # fmt: skip


async def exported(stubs: Stubs, member_id: str = "m-1") -> Any:
    async with Sources(stubs.settings()) as sources:
        subject = Subject(
            program_id="grand", member_id=member_id, first_page=await sources.held("grand", member_id), cache={"tier": "GOLD"},
            tables=tuple(await sources.tables()),
        )  # fmt: skip
        pieces = [piece async for piece in document(sources, subject, dict.fromkeys(subject.merged), "2026-11-25T12:00:00.000Z")]
    return json.loads(b"".join(pieces))


async def test_all_sections_of_all_numbers(stubs: Stubs) -> None:
    stubs.pages = {
        "m-1": page("m-0", outcomes=2, following="0a"), "m-10a": {"outcomes": [{"id": "e:9"}], "next": "0b"}, "m-10b": {"outcomes": [], "next": None},
        "m-0": page(),
    }  # fmt: skip
    stubs.answers = {"ledger_entries:m-1": b'{"n":1}\n{"n":2}\n', "sync_audit:m-0": b'{"a":"\\u00e4"}', "dead_letters:m-1": b'{"reason":"NOT_JSON"}\n'}
    found = await exported(stubs)
    first, second = found["numbers"]
    assert (found["complete"], found["readme"]["sections"].keys() >= {"account", "ledger_entries"}) == (True, True)
    assert [one["id"] for one in first["outcomes"]] == ["t:0", "t:1", "e:9"]
    assert first["history"] == {"ledger_entries": [{"n": 1}, {"n": 2}], "sync_audit": [], "dead_letters": [{"reason": "NOT_JSON"}]}
    assert second["history"] == {"ledger_entries": [], "sync_audit": [{"a": "ä"}], "dead_letters": []}
    assert (first["cache"], second["cache"], second["member_id"]) == ({"tier": "GOLD"}, None, "m-0")


async def test_a_name_with_what_tsv_escapes_is_asked_for_as_it_is(stubs: Stubs) -> None:
    stubs.pages = {"m\\1": page()}
    await exported(stubs, "m\\1")
    assert {asked["param_member_id"] for asked in stubs.asked if "param_member_id" in asked} == {"m\\\\1"}


@pytest.mark.parametrize("answer", [b'{"n":1}\nCode: 241. DB::Exception: Memory limit exceeded', b'{"n":1}\n__exception__\n'])
async def test_an_answer_that_breaks_off_does_not_pass_for_a_whole_one(stubs: Stubs, answer: bytes) -> None:
    stubs.pages, stubs.answers = {"m-1": page()}, {"sync_audit:m-1": answer}
    with pytest.raises(UnavailableError, match="broke off its answer"):
        await exported(stubs)


async def test_what_does_not_answer_is_named(stubs: Stubs) -> None:
    with pytest.raises(UnavailableError, match="no worker of LOYALTY_WORKER_URLS owns the member: .*421"):
        await exported(stubs)
    async with Sources(Settings(clickhouse_url="http://127.0.0.1:9")) as sources:
        with pytest.raises(UnavailableError, match="LOYALTY_CLICKHOUSE_URL=http://127.0.0.1:9"):
            await sources.tables()
        with pytest.raises(UnavailableError, match="without LOYALTY_INTERNAL_TOKEN"):
            await sources.held("grand", "m-1")
