"""THE MAP of connected systems. To add one: a package beside this module, its name here, a fake server in infra/fakes/."""

import importlib
from collections.abc import Iterator, Mapping

from streams.connectors.contract import Connector

KINDS = (
    "apaleo",
    "cloudbeds",
    "cloudevents",
    "darwinbox",
    "fcm",
    "hr",
    "mews",
    "ohip",
    "ota",
    "salesforce",
    "successfactors",
    "workday",
)
"""Each is the name of its package."""


class _Packages(Mapping[str, Connector]):
    """Imported when asked for: a deployment does without the packages of systems that it does not name."""

    def __getitem__(self, kind: str) -> Connector:
        if kind not in KINDS:
            raise KeyError(kind)
        connector: Connector = importlib.import_module(f"streams.connectors.{kind}").CONNECTOR
        return connector

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)


CONNECTORS: Mapping[str, Connector] = _Packages()
"""By kind."""
