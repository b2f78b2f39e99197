"""/v1/destinations/{name}/replays and /lanes: send again what a destination should have heard; members that wait, and what to do with them.

Both are jobs in the log: all sinks do them, each in the partitions that it owns, and say how far they are.
"""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from schemas.contract import Problem
from streams.destinations import document
from streams.destinations.document import REPLAY_FIELDS, time_text
from streams.destinations.model import Action, Destination, Job
from streams.ingress.destinations import READ, WRITE, allowed, answer, body_of, named, page_of, told, with_times
from streams.ingress.parts import Parts
from streams.ingress.problems import ProblemError, invalid

JOB_RETENTION_MS = 30 * 24 * 3600 * 1000  # As long as the events that it is about.


def add_routes(app: web.Application) -> None:
    one = "/v1/destinations/{name}"
    app.router.add_get(f"{one}/replays", get_page, allow_head=False)
    app.router.add_post(f"{one}/replays", create)
    app.router.add_get(f"{one}/replays/{{job_id}}", get_one, allow_head=False)
    app.router.add_post(f"{one}/replays/{{job_id}}/cancel", cancel)
    app.router.add_get(f"{one}/lanes", get_lanes, allow_head=False)
    for verb in ACTIONS:
        app.router.add_post(f"{one}/lanes/{verb}", act)


ACTIONS = {"retry": Action.RETRY, "skip": Action.SKIP}
"""Last part of the path -> what is done with members that wait."""


async def create(request: web.Request) -> web.Response:
    """Make a replay. It begins as soon as the sinks have read of it, within a second."""
    parts, token = allowed(request, WRITE)
    destination, given = named(request, parts, token), await body_of(request)
    if unknown := [name for name in given if name not in REPLAY_FIELDS]:
        raise invalid(*(Problem("FIELD_UNKNOWN", name[:64], f"is not known here; known are {', '.join(sorted(REPLAY_FIELDS))}") for name in unknown))
    now_ms = int(parts.clock() * 1000)
    filled = {"until": time_text(now_ms)} | {name: value for name, value in given.items() if value is not None}
    job = await _make(parts, destination, Action.REPLAY, filled, token.name)
    return answer(_shown(job), 201, {"Location": f"/v1/destinations/{destination.name}/replays/{job.job_id}"})


async def get_page(request: web.Request) -> web.Response:
    """The destination's replays, the newest first, without their progress."""
    parts, token = allowed(request, READ)
    destination = named(request, parts, token)
    limit, after = page_of(request)
    jobs = sorted(
        (job for job in parts.control.jobs.values() if job.destination == destination.name and job.action is Action.REPLAY),
        key=lambda job: (-job.created_at_ms, job.job_id),
    )
    ids = [job.job_id for job in jobs]
    if after and after not in ids:
        raise invalid(Problem("ID_INVALID", "after", "must be `next` of the page before"))
    jobs = jobs[ids.index(after) + 1 if after else 0 :]
    return answer({"replays": [_shown(job) for job in jobs[:limit]], "next": jobs[limit - 1].job_id if len(jobs) > limit else None})


async def get_one(request: web.Request) -> web.Response:
    """A replay, and how far it is."""
    parts, token = allowed(request, READ)
    job = _named_job(request, parts, named(request, parts, token))
    progress, missing = await parts.standings.progress(job.job_id)
    partitions = parts.settings.kafka_partitions
    if job.is_cancelled:
        status = "cancelled"
    elif len(progress.done) >= partitions:
        status = "done"
    else:
        status = "running" if progress.running or progress.done else "waiting"
    how_far = {
        "status": status, "counts": dict(progress.counts), "partitions": partitions, "partitions_done": sorted(progress.done),
        "partitions_running": sorted(progress.running),
    }  # fmt: skip
    return answer(_shown(job) | {"progress": how_far | missing.shown()})


async def cancel(request: web.Request) -> web.Response:
    """End a replay: what is under way ends, and nothing else is sent."""
    parts, token = allowed(request, WRITE)
    job = _named_job(request, parts, named(request, parts, token))
    async with told():
        if not job.is_cancelled:
            job = await parts.control.put_job(replace(job, is_cancelled=True), changed_by=token.name)
    return answer(_shown(job))


async def get_lanes(request: web.Request) -> web.Response:
    """A page of members whose deliveries wait behind one that failed."""
    parts, token = allowed(request, READ)
    destination = named(request, parts, token)
    limit, after = page_of(request)
    rows, missing = await parts.standings.lanes(destination.name, limit + 1, after)
    page = rows[:limit]
    if len(rows) > limit and rows[limit]["member"] == page[-1]["member"]:  # The page goes on behind a member: all of one's lanes are on one page.
        page = [row for row in page if row["member"] != page[-1]["member"]] or page
    following = page[-1]["member"] if len(rows) > limit else None
    return answer({"lanes": [with_times(row) for row in page], "next": following, "incomplete": bool(missing.unreachable),
                   "unreachable": list(missing.unreachable)})  # fmt: skip


async def act(request: web.Request) -> web.Response:
    """Try members that wait now, or pass over what blocks them: those that are named, or all."""
    parts, token = allowed(request, WRITE)
    destination, given = named(request, parts, token), await body_of(request)
    problems = [Problem("FIELD_UNKNOWN", name[:64], "is not known here; known are members and all") for name in given if name not in ("members", "all")]
    if ("members" in given) == ("all" in given) or given.get("all", True) is not True or ("members" in given and not given["members"]):
        problems.append(Problem("FIELD_REQUIRED", "members", "either members, one at least, or all: true"))
    if problems:
        raise invalid(*problems)
    wanted = {"members": given["members"]} if "members" in given else {}
    job = await _make(parts, destination, ACTIONS[request.path.rpartition("/")[2]], wanted, token.name)
    return answer({"job_id": job.job_id, "action": job.action.value, "members": sorted(job.members), "all": not job.members}, 202)


async def _make(parts: Parts, destination: Destination, action: Action, given: Mapping[str, Any], created_by: str) -> Job:
    """Write a job; those of long ago go. Raises ProblemError, UnavailableError, ContractError."""
    now_ms = int(parts.clock() * 1000)
    content = {**given, "destination": destination.name, "action": action.value, "created_by": created_by, "created_at": time_text(now_ms)}
    async with told():
        job = document.read_job(f"{action.value.lower()}-{secrets.token_hex(8)}", content, programs=parts.configuration.programs)
        made = await parts.control.put_job(job, changed_by=created_by)
        for old in [one for one in parts.control.jobs.values() if one.destination == destination.name and one.created_at_ms < now_ms - JOB_RETENTION_MS]:
            await parts.control.delete_job(old.job_id, old.version, changed_by=created_by)
    return made


def _named_job(request: web.Request, parts: Parts, destination: Destination) -> Job:
    job = parts.control.jobs.get(request.match_info["job_id"])
    if job is None or job.destination != destination.name or job.action is not Action.REPLAY:
        raise ProblemError(404, "not-found", "the destination has no such replay")
    return job


def _shown(job: Job) -> dict[str, Any]:
    return {"job_id": job.job_id} | {name: value for name, value in document.job_document(job).items() if name != "action"}
