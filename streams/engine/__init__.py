"""Faust made fast and exact: agents and tables stay Faust's, the way of a batch is ours. Knows nothing of loyalty.

A batch of records of one partition, from whatever mix of topics, is one unit of work: what its handler writes into tables and
sends to topics, and the source offsets, commit in one Kafka transaction or not at all.
"""

from streams.engine.app import App, EngineConfig
from streams.engine.records import Input, Outgoing, Poison
from streams.engine.table import Table
from streams.engine.unit import Unit

__all__ = ["App", "EngineConfig", "Input", "Outgoing", "Poison", "Table", "Unit"]
