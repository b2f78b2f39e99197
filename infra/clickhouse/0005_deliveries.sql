-- Deliveries of webhooks, attempt by attempt; what happened to the destinations themselves; how destinations fare, and what was given up.

CREATE TABLE IF NOT EXISTS delivery_attempts (
    attempt_id String COMMENT 'destination/webhook_id/started_at in milliseconds',
    destination LowCardinality(String),
    channel LowCardinality(String) COMMENT 'The destination, or with # its batches or a replay',
    webhook_id String COMMENT 'The event, or the batch',
    event_ids Array(String),
    kind LowCardinality(String) COMMENT 'Kind of the event; BATCH',
    program_id LowCardinality(String) COMMENT 'Empty for what is about no member',
    member_id String,
    sequence UInt64,
    attempt UInt32 COMMENT 'From 1',
    verdict LowCardinality(String) COMMENT 'DELIVERED, RETRY, GIVEN_UP',
    outcome LowCardinality(String) COMMENT 'Status, or the name of the failure',
    status Nullable(UInt16),
    detail String CODEC(ZSTD(1)),
    next_attempt_at Nullable(DateTime64(3, 'UTC')),
    url LowCardinality(String),
    peer_address LowCardinality(Nullable(String)),
    request_headers Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    request_body String CODEC(ZSTD(3)) COMMENT 'As sent, cut, and without the reasons that senders of commands gave',
    response_headers Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    response_body String CODEC(ZSTD(3)),
    appended_at DateTime64(3, 'UTC') COMMENT 'When the event was appended to the log',
    started_at DateTime64(3, 'UTC'),
    duration_us UInt64,
    correlation_id Nullable(String),
    source_partition UInt16 COMMENT 'Partition of the delivery-attempts topic, and of the event',
    source_offset UInt64 COMMENT 'Offset in the delivery-attempts topic',
    mirrored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    INDEX ix_events event_ids TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_member member_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_webhook webhook_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_correlation correlation_id TYPE bloom_filter(0.01) GRANULARITY 1
) ENGINE = ReplacingMergeTree(mirrored_at)
-- A day is dropped whole when its time is over, which costs nothing. It is by the sink's clock, and the topic has few days.
PARTITION BY toDate(started_at)
-- What failed lies apart from what was delivered: the newest failures of a destination are read from the end of where they are.
ORDER BY (destination, verdict, started_at, source_partition, source_offset)
SETTINGS ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS delivery_notices (
    notice_id String,
    kind LowCardinality(String),
    destination LowCardinality(String),
    reason LowCardinality(String),
    detail String,
    program_id LowCardinality(Nullable(String)) COMMENT 'Of the event that it is about; so the next two',
    member_id Nullable(String),
    event_id Nullable(String),
    occurred_at DateTime64(3, 'UTC'),
    source_partition UInt16 COMMENT 'Partition of the delivery-notices topic',
    source_offset UInt64 COMMENT 'Offset in the delivery-notices topic',
    mirrored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(mirrored_at)
PARTITION BY toYYYYMM(occurred_at)
-- By its id and not by its place: one that is written twice is the same.
ORDER BY (destination, notice_id);

-- Most records of the audit are deliveries that went well: those that did not are found without reading them.
ALTER TABLE delivery_audit ADD INDEX IF NOT EXISTS ix_result result TYPE set(8) GRANULARITY 1;
ALTER TABLE delivery_audit MATERIALIZE INDEX ix_result;

-- How each destination fares, by the hour in which attempts began. append_to_2xx is from the event's append to the log to the answer's end.
CREATE OR REPLACE VIEW delivery_status AS
SELECT
    a.destination AS destination,
    toStartOfHour(a.started_at) AS hour,
    count() AS attempts,
    countIf(a.verdict = 'DELIVERED') AS deliveries,
    countIf(a.verdict != 'DELIVERED') AS failed,
    countIf(a.verdict = 'GIVEN_UP') AS given_up,
    countIf(intDiv(a.status, 100) = 2) AS status_2xx,
    countIf(intDiv(a.status, 100) = 3) AS status_3xx,
    countIf(intDiv(a.status, 100) = 4) AS status_4xx,
    countIf(intDiv(a.status, 100) = 5) AS status_5xx,
    countIf(a.status IS NULL) AS failures,
    quantile(0.5)(a.duration_us) / 1000 AS duration_p50_ms,
    quantile(0.99)(a.duration_us) / 1000 AS duration_p99_ms,
    quantileIf(0.5)(dateDiff('millisecond', a.appended_at, a.started_at) + a.duration_us / 1000, a.verdict = 'DELIVERED') AS append_to_2xx_p50_ms,
    quantileIf(0.99)(dateDiff('millisecond', a.appended_at, a.started_at) + a.duration_us / 1000, a.verdict = 'DELIVERED') AS append_to_2xx_p99_ms
FROM delivery_attempts AS a FINAL
GROUP BY destination, hour;

-- What was given up or passed over, and not delivered since: the newest word on each event and destination. log_partition and log_offset are
-- its place in the events topic, if the history has the event; the log itself keeps it for as long as its retention says.
CREATE OR REPLACE VIEW delivery_dead_letters AS
SELECT
    d.destination AS destination,
    d.program_id AS program_id,
    d.member_id AS member_id,
    d.event_id AS event_id,
    d.sequence AS sequence,
    d.kind AS kind,
    d.newest.1 AS result,
    d.newest.2 AS reason,
    d.newest.3 AS status,
    d.newest.4 AS attempts,
    d.newest.5 AS ended_at,
    d.occurred_at AS occurred_at,
    d.recorded_at AS recorded_at,
    d.correlation_id AS correlation_id,
    e.source_partition AS log_partition,
    e.source_offset AS log_offset,
    d.source_partition AS source_partition,
    d.newest.6 AS source_offset
FROM (
    SELECT
        a.destination AS destination, a.program_id AS program_id, a.member_id AS member_id, a.event_id AS event_id, a.sequence AS sequence,
        a.source_partition AS source_partition, any(a.kind) AS kind, any(a.occurred_at) AS occurred_at, any(a.recorded_at) AS recorded_at,
        any(a.correlation_id) AS correlation_id,
        argMax((a.result, a.reason, a.status, a.attempts, a.ended_at, a.source_offset), a.source_offset) AS newest
    FROM delivery_audit AS a FINAL
    WHERE a.event_id IN (SELECT event_id FROM delivery_audit WHERE result IN ('DEAD_LETTERED', 'SKIPPED'))
    GROUP BY destination, program_id, member_id, event_id, sequence, source_partition
    HAVING newest.1 IN ('DEAD_LETTERED', 'SKIPPED')
) AS d
LEFT JOIN (
    SELECT program_id, member_id, sequence, event_id, toNullable(source_partition) AS source_partition, toNullable(source_offset) AS source_offset
    FROM loyalty_events FINAL
    WHERE (program_id, member_id, sequence) IN (
        SELECT program_id, member_id, sequence FROM delivery_audit WHERE result IN ('DEAD_LETTERED', 'SKIPPED')
    )
) AS e ON d.program_id = e.program_id AND d.member_id = e.member_id AND d.sequence = e.sequence AND d.event_id = e.event_id;
