-- How far the mirror is: which part of which topic each insert brought, and what is missing between them.

-- One row per insert and partition, written behind the rows themselves and before the offsets are committed: what it says is in. Offsets
-- from first_offset on were read without a break (marks of transactions take some, and compaction leaves holes).
CREATE TABLE IF NOT EXISTS mirror_ranges (
    table_name LowCardinality(String),
    topic LowCardinality(String),
    partition UInt16,
    first_offset UInt64 COMMENT 'The one behind the last record before',
    last_offset UInt64 COMMENT 'Of the last record',
    records UInt64 COMMENT 'Read from the topic',
    row_count UInt64 COMMENT 'Rows that they became; versions that an erasure has ended become none',
    refused UInt64 COMMENT 'Records given up, each of them a dead letter',
    points Int64 COMMENT 'Sum of points_delta of the rows',
    mirrored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(mirrored_at)
ORDER BY (table_name, topic, partition, first_offset, last_offset)
-- As long as the topics themselves keep what could be read again.
TTL toDateTime(mirrored_at) + toIntervalDay(90);

-- GAP: offsets that no insert brought. OVERLAP: offsets that were read again, after a kill for example; their rows have replaced themselves.
CREATE OR REPLACE VIEW mirror_gaps AS
SELECT
    r.table_name AS table_name,
    r.topic AS topic,
    r.partition AS partition,
    if(r.first_offset > r.reached + 1, 'GAP', 'OVERLAP') AS kind,
    if(kind = 'GAP', toUInt64(r.reached + 1), r.first_offset) AS from_offset,
    if(kind = 'GAP', toUInt64(r.first_offset - 1), least(r.reached, r.last_offset)) AS to_offset,
    r.mirrored_at AS mirrored_at
FROM (
    SELECT
        m.table_name AS table_name, m.topic AS topic, m.partition AS partition, m.first_offset AS first_offset, m.last_offset AS last_offset,
        m.mirrored_at AS mirrored_at,
        max(m.last_offset) OVER earlier AS reached,
        count() OVER earlier AS ranges_before
    FROM mirror_ranges AS m FINAL
    WINDOW earlier AS (
        PARTITION BY m.table_name, m.topic, m.partition ORDER BY m.first_offset, m.last_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
) AS r
WHERE r.ranges_before > 0 AND r.first_offset != r.reached + 1;

-- An insert that is sent again because its answer was lost changes nothing: its token names its records. The order of each table, which
-- identifies its records, is the first line; this is the second.
ALTER TABLE ledger_entries MODIFY SETTING non_replicated_deduplication_window = 100;
ALTER TABLE loyalty_events MODIFY SETTING non_replicated_deduplication_window = 100;
ALTER TABLE member_profile_history MODIFY SETTING non_replicated_deduplication_window = 100;
ALTER TABLE sync_audit MODIFY SETTING non_replicated_deduplication_window = 100;
ALTER TABLE delivery_audit MODIFY SETTING non_replicated_deduplication_window = 100;
ALTER TABLE delivery_attempts MODIFY SETTING non_replicated_deduplication_window = 100;
ALTER TABLE delivery_notices MODIFY SETTING non_replicated_deduplication_window = 100;
ALTER TABLE dead_letters MODIFY SETTING non_replicated_deduplication_window = 100;
ALTER TABLE sync_runs MODIFY SETTING non_replicated_deduplication_window = 100;
