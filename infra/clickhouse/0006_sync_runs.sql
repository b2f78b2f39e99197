-- Runs of what happens at times: scheduled streams, reports, reconciliations, loads.

CREATE TABLE IF NOT EXISTS sync_runs (
    run_id String COMMENT 'Job and instant; the same for what was tried again',
    job LowCardinality(String) COMMENT 'As in the configuration: sync/profile-changes, report/liability',
    trigger LowCardinality(String) COMMENT 'SCHEDULE, CATCH_UP, OPERATOR',
    result LowCardinality(String) COMMENT 'DONE, FAILED, STOPPED',
    detail String,
    attempt UInt32 COMMENT 'From 1',
    cadence LowCardinality(String) COMMENT 'In words',
    requested_by LowCardinality(String) COMMENT 'Empty for a schedule',
    scheduled_for DateTime64(3, 'UTC') COMMENT 'The instant that it was due',
    started_at DateTime64(3, 'UTC'),
    ended_at DateTime64(3, 'UTC'),
    rows Int64 COMMENT 'Records sent, or rows made',
    counts Map(LowCardinality(String), Int64) COMMENT 'What else it counted',
    due_after DateTime64(3, 'UTC') COMMENT 'When it is due next, as known at its end; 1970 for what has no cadence',
    source_partition UInt16 COMMENT 'Partition of the sync-runs topic',
    source_offset UInt64 COMMENT 'Offset in the sync-runs topic',
    mirrored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(mirrored_at)
PARTITION BY toYYYYMM(ended_at)
ORDER BY (job, ended_at, run_id, source_partition, source_offset);
