"""THE MAP of connected systems. To add one: a package beside this module, a line here, a fake server in infra/fakes/."""

from collections.abc import Mapping

from streams.connectors.contract import Connector

CONNECTORS: Mapping[str, Connector] = {}
"""By kind."""
