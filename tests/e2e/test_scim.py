"""SCIM on real parts: scim2-tester's own checks, and that what they wrote is in the ledger."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import Status, check_server

from streams import kafka
from streams.settings import Settings
from streams.tables import CHANGELOG_CONFIG, changelogs
from tests.e2e import oracle
from tests.e2e.processes import Pipeline, free_port, pipeline

TOKEN = "token-of-the-scim-test"


def test_the_checks_of_scim2_tester_pass(make_settings: Any, tmp_path: Path) -> None:
    config_file = tmp_path / "loyalty.toml"
    config_file.write_text(oracle.RULES_TOML + f'[tokens.okta]\ntoken = "{TOKEN}"\nscopes = {json.dumps(["scim"])}\nprograms = ["grand"]\n')
    settings: Settings = make_settings(config_file=str(config_file), kafka_partitions=2)
    kafka.ensure_topics(settings, changelogs={name: CHANGELOG_CONFIG for name in changelogs(settings)})
    with pipeline(settings, "worker") as worker:
        settings = replace(settings, worker_urls=worker.url, ingress_port=free_port())
        ingress = Pipeline(settings, "ingress", http_port=settings.ingress_port)
        try:
            with pipeline(settings, "sink", "clickhouse") as sink:
                for process in (worker, sink, ingress):
                    process.wait_ready()
                headers = {"Authorization": f"Bearer {TOKEN}"}
                with httpx2.Client(base_url=f"{ingress.url}/scim/v2", headers=headers, timeout=30) as http:
                    results = check_server(SyncSCIMClient(http))
        finally:
            ingress.kill()
    told = "\n".join(f"{one.status.name} {one.title}: {one.reason}" for one in results)
    print(told)
    assert results and all(one.status in (Status.SUCCESS, Status.COMPLIANT, Status.ACCEPTABLE, Status.SKIPPED) for one in results), told
