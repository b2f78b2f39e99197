"""All fake systems at once, as `loyalty up --with-fakes` starts them, and the example of connected systems that points at them."""

import tomllib
from collections.abc import Iterator

import pytest

from infra.fakes.registry import EXAMPLE_FILE, FAKES, Fakes
from streams import configuration
from streams.connectors.registry import CONNECTORS

SERVERLESS = {"cloudevents", "hr", "ota"}
"""Kinds that only send: there is nothing to be reached."""


@pytest.fixture(scope="module")
def fakes() -> Iterator[Fakes]:
    running = Fakes(free_ports=True)
    running.start()
    yield running
    running.stop()


def test_every_kind_that_can_be_reached_has_a_fake() -> None:
    assert FAKES.keys() == CONNECTORS.keys() - SERVERLESS
    assert len({fake.port for fake in FAKES.values()}) == len(FAKES)


def test_the_example_is_right_and_connects_every_kind_in_all_its_directions(fakes: Fakes) -> None:
    text = fakes.render(configuration.render_example(EXAMPLE_FILE.read_text()))
    assert "{{" not in text
    configured = configuration.parse(tomllib.loads(text), text=text)
    kinds = {source.kind for source in configured.sources.values()}
    assert kinds == {kind for kind, connector in CONNECTORS.items() if connector.is_source} - {"cloudevents", "hr"}
    assert {target.kind for target in configured.targets.values()} == {kind for kind, connector in CONNECTORS.items() if connector.write}
    for name, target in configured.targets.items():
        assert name not in configured.sources or configured.sources[name].kind == target.kind, "the two halves of one system carry the same name"
    asked = {source.options["base_url"] for source in configured.sources.values() if source.options.get("base_url")}
    assert asked <= {fake.base_url for fake in fakes.running.values()}
