"""The form with containers cannot run here. Its shape can be checked: every name in it that is also somewhere else."""

import re
import tomllib
from configparser import ConfigParser
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import jars
from infra.stack import PIPELINE
from streams.settings import PREFIX, Settings

INFRA = Path(__file__).resolve().parents[2] / "infra"
SETTINGS = {f"{PREFIX}{field.name.upper()}": field for field in fields(Settings)}
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {process.name: SERVICES[process.name] for process in PIPELINE}


def test_one_service_per_process_of_the_pipeline_and_the_same_commands() -> None:
    assert set(SERVICES) == {*OURS, "kafka", "valkey", "clickhouse", "prometheus", "grafana", "registry"}
    for process in PIPELINE:
        assert tuple(OURS[process.name]["command"]) == process.command[3:], process.name


@pytest.mark.parametrize("file", ["compose.yaml", "Dockerfile", "prometheus.yml"])
def test_every_variable_is_a_setting(file: str) -> None:
    for name in re.findall(rf"{PREFIX}[A-Z_]+", (INFRA / file).read_text()):
        assert name in SETTINGS or name.removesuffix("_FILE") in SETTINGS, name


def test_the_values_are_of_the_settings_kinds() -> None:
    for service in OURS.values():
        for name, value in service["environment"].items():
            assert isinstance(value, str), f"{name}: YAML must not guess"
            if name in SETTINGS and isinstance(SETTINGS[name].default, int):
                int(value)
    assert OURS["worker"]["environment"]["LOYALTY_KAFKA_REPLICATION_FACTOR"] == "1"


def test_secrets_come_from_files_and_only_from_there() -> None:
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            setting = SETTINGS.get(variable)
            assert not (setting and setting.metadata.get("secret")), f"{name}: {variable} would show in `docker inspect`"
            if variable.endswith("_PASSWORD_FILE") or variable.removesuffix("_FILE") in SETTINGS and variable not in SETTINGS:
                path = Path(service["environment"][variable])
                assert path.parent == Path("/run/secrets")
                assert path.name in service["secrets"]
        assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys()
    assert all(secret["file"].startswith("./secrets/") for secret in COMPOSE["secrets"].values())
    assert "infra/secrets" in (INFRA / "Dockerfile.dockerignore").read_text().split()


def test_everything_is_checked_for_health_and_ours_wait_for_it() -> None:
    assert [name for name, service in SERVICES.items() if "test" not in service.get("healthcheck", {})] == []
    for service in OURS.values():
        assert service["depends_on"] == {name: {"condition": "service_healthy"} for name in ("kafka", "valkey", "clickhouse")}


def test_data_are_in_named_volumes() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert {name for name in used if not name.startswith(".")} == COMPOSE["volumes"].keys()
    for name in ("worker", "kafka", "valkey", "clickhouse"):
        assert any(volume.startswith(f"{name}:") for volume in SERVICES[name]["volumes"]), name


def test_ports_are_open_to_this_machine_only() -> None:
    assert [port for service in SERVICES.values() for port in service.get("ports", ()) if not port.startswith("127.0.0.1:")] == []


def test_the_broker_is_the_embedded_one() -> None:
    kafka = SERVICES["kafka"]
    assert kafka["image"] == f"apache/kafka:{jars.KAFKA_VERSION}"
    assert kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    factors = {name: value for name, value in kafka["environment"].items() if name.endswith(("_FACTOR", "_ISR"))}
    assert len(factors) == 5 and set(factors.values()) == {"1"}


def test_prometheus_scrapes_every_process() -> None:
    scraped = yaml.safe_load((INFRA / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in scraped for part in job.get("static_configs", ()) for target in part["targets"]]
    targets += [f"{name}:{part['port']}" for job in scraped for part in job.get("dns_sd_configs", ()) for name in part["names"]]
    environment = OURS["ingress"]["environment"]
    ports = {name: environment["LOYALTY_HTTP_PORT"] for name in OURS} | {"ingress": environment["LOYALTY_INGRESS_PORT"]}
    assert sorted(targets) == sorted(f"{name}:{port}" for name, port in ports.items())


def test_the_image_has_what_it_is_built_from() -> None:
    lines = (INFRA / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]}
    root = INFRA.parent
    assert [name for name in copied if name not in ("README.md",) and not (root / name).exists()] == []
    setup = ConfigParser()
    setup.read(root / "setup.cfg")
    packages = {name.strip("*") for name in setup["options.packages.find"]["include"].split()}
    assert packages | set(tomllib.loads((root / "pyproject.toml").read_text())) <= copied | {"build-system"}
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().split()
    assert {f"!{name}" for name in copied} <= set(ignored)
