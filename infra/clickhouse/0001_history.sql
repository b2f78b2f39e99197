-- The history: one row per record of the outbound topics. A record that is read again replaces itself, because the order of each table
-- is the identity of its records: read with FINAL, and replays change nothing.
-- Partitions follow recorded_at, the pipeline's own clock: occurred_at is the sources' word, and a file of old stays would touch more
-- months than one insert may.

CREATE TABLE IF NOT EXISTS ledger_entries (
    program_id LowCardinality(String),
    member_id String,
    entry_sequence UInt64 COMMENT 'From 1 without gaps per member',
    entry_id String,
    transaction_id String,
    kind LowCardinality(String),
    points_delta Int64,
    balance_after Int64,
    counter_account LowCardinality(String),
    rule_id LowCardinality(String),
    reverses_transaction_id Nullable(String),
    source_system LowCardinality(String),
    property_id LowCardinality(Nullable(String)),
    category LowCardinality(Nullable(String)),
    reason Nullable(String),
    occurred_at DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC'),
    recorded_at DateTime64(3, 'UTC'),
    correlation_id Nullable(String),
    source_partition UInt16 COMMENT 'Partition of the ledger-entries topic',
    source_offset UInt64 COMMENT 'Offset in the ledger-entries topic',
    mirrored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    INDEX ix_transaction transaction_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX ix_occurred occurred_at TYPE minmax GRANULARITY 4
) ENGINE = ReplacingMergeTree(mirrored_at)
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (program_id, member_id, entry_sequence);

CREATE TABLE IF NOT EXISTS loyalty_events (
    program_id LowCardinality(String),
    member_id String,
    sequence UInt64 COMMENT 'From 1 without gaps per member',
    event_id String,
    kind LowCardinality(String),
    status LowCardinality(String),
    tier LowCardinality(String),
    available_points Int64,
    qualifying_points Int64,
    points_delta Int64,
    shortfall_points Int64,
    previous_tier LowCardinality(Nullable(String)),
    offer_id LowCardinality(Nullable(String)),
    reward_code LowCardinality(Nullable(String)),
    voucher_code Nullable(String),
    refusal LowCardinality(Nullable(String)),
    changed_attributes Array(LowCardinality(String)),
    command_id String,
    command_stream LowCardinality(String),
    source_system LowCardinality(String),
    command_reason Nullable(String),
    occurred_at DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC'),
    recorded_at DateTime64(3, 'UTC'),
    correlation_id Nullable(String),
    source_partition UInt16 COMMENT 'Partition of the events topic',
    source_offset UInt64 COMMENT 'Offset in the events topic',
    mirrored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    INDEX ix_event event_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX ix_occurred occurred_at TYPE minmax GRANULARITY 4
) ENGINE = ReplacingMergeTree(mirrored_at)
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (program_id, member_id, sequence);

-- The only table with personal data. No projections: ClickHouse refuses a lightweight DELETE, which an erasure needs, on tables that have some.
CREATE TABLE IF NOT EXISTS member_profile_history (
    program_id LowCardinality(String),
    member_id String,
    version UInt64 COMMENT 'From 1 without gaps per member',
    operation LowCardinality(String),
    attributes Map(LowCardinality(String), String),
    segments Array(String),
    status LowCardinality(String),
    tier LowCardinality(String),
    changed Array(LowCardinality(String)),
    source_system LowCardinality(String),
    valid_from DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC'),
    recorded_at DateTime64(3, 'UTC'),
    correlation_id Nullable(String),
    source_partition UInt16 COMMENT 'Partition of the profiles topic',
    source_offset UInt64 COMMENT 'Offset in the profiles topic',
    mirrored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(mirrored_at)
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (program_id, member_id, version);

CREATE TABLE IF NOT EXISTS sync_audit (
    program_id LowCardinality(String),
    member_id String,
    audit_id String COMMENT 'Place of the inbound record: topic-partition-offset',
    stream LowCardinality(String),
    command_id String,
    payload_hash String,
    source_system LowCardinality(String),
    actor Nullable(String),
    result LowCardinality(String),
    reason LowCardinality(Nullable(String)),
    replayed Bool,
    changes Array(Tuple(attribute String, before Nullable(String), after Nullable(String))) COMMENT 'Personal data is masked',
    sequence Nullable(UInt64),
    points_delta Nullable(Int64),
    available_points Nullable(Int64),
    tier LowCardinality(Nullable(String)),
    voucher_code Nullable(String),
    occurred_at DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC'),
    recorded_at DateTime64(3, 'UTC'),
    correlation_id Nullable(String),
    topic LowCardinality(String) COMMENT 'Of the inbound record',
    partition UInt16,
    offset UInt64,
    source_partition UInt16 COMMENT 'Partition of the sync-audit topic',
    source_offset UInt64 COMMENT 'Offset in the sync-audit topic',
    mirrored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    INDEX ix_command command_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX ix_correlation correlation_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX ix_ingested ingested_at TYPE minmax GRANULARITY 4
) ENGINE = ReplacingMergeTree(mirrored_at)
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (program_id, member_id, audit_id);

-- Why records were given up and where each one stands in the log. Their bytes stay there: they may hold personal data.
CREATE TABLE IF NOT EXISTS dead_letters (
    dead_letter_id String,
    stage LowCardinality(String),
    reason LowCardinality(String),
    detail String,
    processor LowCardinality(String),
    topic LowCardinality(String),
    partition UInt16,
    offset UInt64,
    key String,
    value_bytes UInt64 COMMENT 'Size of the record',
    ingested_at DateTime64(3, 'UTC'),
    failed_at DateTime64(3, 'UTC'),
    source_partition UInt16 COMMENT 'Partition of the dead-letters topic, where the record is kept whole',
    source_offset UInt64 COMMENT 'Offset in the dead-letters topic',
    mirrored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(mirrored_at)
ORDER BY dead_letter_id;
