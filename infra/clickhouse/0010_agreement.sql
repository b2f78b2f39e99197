-- What each reconciliation of all copies has found: one row a run, and one for each difference. A run that is tried again replaces its rows.

CREATE TABLE IF NOT EXISTS agreement_runs (
    run_id String,
    program_id LowCardinality(String) COMMENT 'Empty: all programmes',
    started_at DateTime64(3, 'UTC'),
    ended_at DateTime64(3, 'UTC'),
    members UInt64,
    differences UInt64 COMMENT 'Without those that only wait',
    waiting UInt64 COMMENT 'Differences that are lag',
    mended UInt64 COMMENT 'Records restated and events replayed',
    not_compared Array(LowCardinality(String)) COMMENT 'Stores that could not be asked',
    written_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(written_at)
ORDER BY run_id;

CREATE TABLE IF NOT EXISTS agreement_differences (
    run_id String,
    number UInt32 COMMENT 'Within the run, from 1',
    program_id LowCardinality(String),
    member_id String,
    store LowCardinality(String),
    cause LowCardinality(String),
    field LowCardinality(String),
    here Nullable(String),
    there Nullable(String),
    sequence Nullable(UInt64) COMMENT 'Of the entry, event or profile version at which they part',
    record_id String COMMENT 'Its entry_id or event_id',
    age_s Nullable(Float64) COMMENT 'Of lag',
    detail String,
    repair String,
    started_at DateTime64(3, 'UTC') COMMENT 'Of the run',
    written_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(started_at)
ORDER BY (run_id, number);
