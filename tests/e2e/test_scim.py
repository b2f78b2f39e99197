"""SCIM on real parts: scim2-tester's own checks, and a directory's day with a real client, whose word the ledger keeps."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import Status, check_server

from streams import kafka
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e import oracle
from tests.e2e.processes import Pipeline, free_port, pipeline

TOKEN = "token-of-the-scim-test"
USER = "urn:ietf:params:scim:schemas:core:2.0:User"
PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
FINE = (Status.SUCCESS, Status.COMPLIANT, Status.ACCEPTABLE, Status.SKIPPED)
STAFF = """
[programs.staff]
name = "Staff"
time_zone = "UTC"
[programs.staff.earn]
points_per_unit = { EUR = 1 }
[[programs.staff.tiers]]
name = "STAFF"
threshold_points = 0
[programs.staff.mastering]
family_name = "salesforce"
"""


@pytest.fixture
def directory(make_settings: Any, tmp_path: Path) -> Iterator[httpx2.Client]:
    """A client of a worker, a sink and an ingress; `okta` speaks for a programme whose family names Salesforce masters."""
    config_file = tmp_path / "loyalty.toml"
    tokens = "".join(
        f'[tokens.{name}]\ntoken = "{TOKEN}-{program}"\nscopes = {json.dumps(["scim"])}\nprograms = ["{program}"]\n'
        for name, program in (("directory", "grand"), ("okta", "staff"))
    )
    config_file.write_text(oracle.RULES_TOML + STAFF + tokens)
    settings: Settings = make_settings(config_file=str(config_file), kafka_partitions=2)
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    with ExitStack() as stack:
        worker = stack.enter_context(pipeline(settings, "worker"))
        settings = replace(settings, worker_urls=worker.url, ingress_port=free_port())
        sink = stack.enter_context(pipeline(settings, "sink", "clickhouse"))
        ingress = Pipeline(settings, "ingress", http_port=settings.ingress_port)
        stack.callback(ingress.kill)
        for process in (worker, sink, ingress):
            process.wait_ready()
        headers = {"Authorization": f"Bearer {TOKEN}-grand", "Content-Type": "application/scim+json"}
        yield stack.enter_context(httpx2.Client(base_url=f"{ingress.url}/scim/v2", headers=headers, timeout=30))


def test_the_checks_of_scim2_tester_pass(directory: httpx2.Client) -> None:
    results = check_server(SyncSCIMClient(directory))
    told = "\n".join(f"{one.status.name} {one.title}: {one.reason}" for one in results)
    print(told)
    assert len(results) > 50 and all(one.status in FINE for one in results), told


def test_a_directorys_day(directory: httpx2.Client) -> None:
    directory.headers["Authorization"] = f"Bearer {TOKEN}-staff"

    def found(query: str) -> list[str]:
        answer = directory.get("/Users", params={"filter": query} if query else {})
        assert answer.status_code == 200, answer.text
        return sorted(one["userName"] for one in answer.json().get("Resources", []))

    def patched(number: str, *operations: dict[str, Any], **headers: str) -> Any:
        return directory.patch(f"/Users/{number}", json={"schemas": [PATCH_OP], "Operations": operations}, headers=headers)

    assert found('userName eq "ada@example.com"') == []
    numbers = {}
    for name in ("ada", "robin"):
        body = {"schemas": [USER], "userName": f"{name}@example.com", "externalId": name, "emails": [{"value": f"{name}@example.com"}]}
        made = directory.post("/Users", json=body)
        assert made.status_code == 201, made.text
        numbers[name] = made.json()["id"]
    assert made.headers["Location"] == str(directory.base_url.join(f"Users/{numbers['robin']}"))
    assert directory.post("/Users", json=body).json()["scimType"] == "uniqueness"

    # What was written is listed at once, although the history is behind, and found by the ledger or narrowed by ClickHouse.
    assert found("") == ["ada@example.com", "robin@example.com"]
    assert found('userName eq "ADA@example.com"') == found('externalId eq "ada"') == ["ada@example.com"]
    assert found('emails[value eq "ROBIN@example.com"]') == found('emails.value sw "robin"') == ["robin@example.com"]
    assert found('userName eq "it\'s a/b {nobody:String} \\\\ \\t \\n \\r"') == []
    page = directory.get("/Users", params={"startIndex": 2, "count": 1}).json()
    assert (page["totalResults"], page["itemsPerPage"], page["Resources"][0]["id"]) == (2, 1, max(numbers.values()))

    # Of whom another system is the master, and versions.
    refused = patched(numbers["ada"], {"op": "Replace", "path": "name.familyName", "value": "Byron"})
    assert (refused.status_code, refused.json()["scimType"], refused.json()["detail"]) == (
        400, "mutability", "Attribute 'name.familyName' is readOnly: family_name is mastered by salesforce",
    )  # fmt: skip
    version = directory.get(f"/Users/{numbers['ada']}").headers["ETag"]
    assert directory.get(f"/Users/{numbers['ada']}", headers={"If-None-Match": version}).status_code == 304
    changed = patched(numbers["ada"], {"op": "Replace", "path": "active", "value": "False"}, **{"If-Match": version})
    assert (changed.status_code, changed.json()["active"]) == (200, False)
    assert patched(numbers["ada"], {"op": "Replace", "path": "active", "value": "True"}, **{"If-Match": version}).status_code == 412
    assert found("active eq false") == ["ada@example.com"]

    # Who has left is not there, and comes back under the same number.
    assert directory.delete(f"/Users/{numbers['robin']}").status_code == 204
    assert directory.get(f"/Users/{numbers['robin']}").status_code == 404
    assert found("") == ["ada@example.com"] and found('externalId eq "robin"') == []
    back = directory.post("/Users", json=body)
    assert (back.status_code, back.json()["id"], back.json()["active"]) == (201, numbers["robin"], True)
    assert found("active eq true") == ["robin@example.com"]
