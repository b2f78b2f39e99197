"""Metrics of the engine, declared once with their help text."""

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

UNITS = Counter("loyalty_engine_units", "Units of work by result: committed, aborted.", ["partition", "result"])
UNIT_RECORDS = Histogram("loyalty_engine_unit_records", "Records in one unit of work.", buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2000, 5000))
COMMIT_SECONDS = Histogram("loyalty_engine_commit_seconds", "Time of one Kafka transaction, from its first record to its commit.", buckets=SECONDS)
PARTITION_RESETS = Counter(
    "loyalty_engine_partition_resets",
    "Times a partition was given up to be taken over again: FENCED, ABORTED, NOT_OPENED, READ_FAILED, STATE_FAILED, OUT_OF_STEP, UNIT_FAILED, REFUSED.",
    ["partition", "reason"],
)
RECOVERED_ROWS = Counter("loyalty_engine_recovered_rows", "Changelog rows read to fill a table's state.", ["table"])
LAG = Gauge("loyalty_engine_lag_records", "Records appended and not yet committed, at the last fetch.", ["topic", "partition"])
STATE_ROWS = Gauge("loyalty_engine_state_rows", "Rows of all tables in one partition's state, estimated.", ["partition"])
STATE_BYTES = Gauge("loyalty_engine_state_bytes", "Local disk and write buffers of one partition's state.", ["partition"])
RECOVERY_REMAINING = Gauge("loyalty_engine_recovery_remaining_records", "Changelog records still to read before the partition opens.", ["partition"])
ROWS_FORGOTTEN = Counter("loyalty_engine_rows_forgotten", "Rows of which all older versions were removed from the local disk, copies included.")
STANDBY_PARTITIONS = Gauge("loyalty_engine_standby_partitions", "Partitions of other workers of which this one keeps a copy.")
STANDBY_ROWS = Counter("loyalty_engine_standby_rows", "Changelog rows written into copies of other workers' partitions.")
STANDBY_LAG = Gauge("loyalty_engine_standby_lag_records", "Changelog records that a copy did not have at its last fetch.", ["partition"])
STANDBY_FAILURES = Counter("loyalty_engine_standby_failures", "Times that a copy, or all of them, had to be opened again.")
POISON = Counter("loyalty_engine_poison", "Records that became dead letters. Counted again when their unit is done again.", ["stage", "reason"])
