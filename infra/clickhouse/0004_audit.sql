-- The audit of every sync event, in and out, in chains of hashes; and what an auditor asks of it. Personal data is masked before it comes here.

ALTER TABLE sync_audit
    ADD COLUMN IF NOT EXISTS detail Nullable(String) COMMENT 'What the reason is about, for example the attribute and its master' AFTER reason,
    ADD COLUMN IF NOT EXISTS source_version Nullable(Int64) COMMENT 'Version of the record in the source system' AFTER source_system,
    ADD COLUMN IF NOT EXISTS chain_number UInt64 COMMENT 'From 1 without gaps per source_partition; 0: from before there were chains' AFTER offset,
    ADD COLUMN IF NOT EXISTS previous_hash String COMMENT 'record_hash of the record before in the chain' AFTER chain_number,
    ADD COLUMN IF NOT EXISTS record_hash String AFTER previous_hash;

ALTER TABLE member_profile_history
    ADD COLUMN IF NOT EXISTS external_ids Map(LowCardinality(String), String) AFTER segments;

ALTER TABLE loyalty_events
    ADD COLUMN IF NOT EXISTS refusal_detail Nullable(String) AFTER refusal,
    ADD COLUMN IF NOT EXISTS identity_type LowCardinality(Nullable(String)) COMMENT 'IDENTITY_CONFLICT: type of the external id' AFTER effective_at;

CREATE TABLE IF NOT EXISTS delivery_audit (
    destination LowCardinality(String),
    program_id LowCardinality(String),
    member_id String,
    sequence UInt64,
    delivery_id String COMMENT 'destination/event_id; an event that was delivered again has the same',
    event_id String,
    kind LowCardinality(String),
    result LowCardinality(String),
    reason LowCardinality(Nullable(String)),
    status Nullable(Int32) COMMENT 'HTTP status of the last answer',
    attempts UInt32,
    command_id String,
    source_system LowCardinality(String),
    changed_attributes Array(LowCardinality(String)),
    occurred_at DateTime64(3, 'UTC'),
    ingested_at DateTime64(3, 'UTC'),
    recorded_at DateTime64(3, 'UTC'),
    ended_at DateTime64(3, 'UTC'),
    correlation_id Nullable(String),
    chain_number UInt64 COMMENT 'From 1 without gaps per destination and source_partition',
    previous_hash String,
    record_hash String,
    source_partition UInt16 COMMENT 'Partition of the delivery-audit topic',
    source_offset UInt64 COMMENT 'Offset in the delivery-audit topic',
    mirrored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    INDEX ix_event event_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX ix_correlation correlation_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX ix_member member_id TYPE bloom_filter(0.01) GRANULARITY 4
) ENGINE = ReplacingMergeTree(mirrored_at)
PARTITION BY toYYYYMM(ended_at)
-- By place in the topic, not by number: of two records that claim one number both must show.
ORDER BY (destination, source_partition, source_offset);

-- Access and change report: one row per attribute that an event changed, or per event that changed none.
CREATE OR REPLACE VIEW audit_member_changes AS
SELECT
    a.program_id AS program_id,
    a.member_id AS member_id,
    a.recorded_at AS recorded_at,
    a.occurred_at AS occurred_at,
    a.ingested_at AS ingested_at,
    a.stream AS stream,
    a.source_system AS source_system,
    a.actor AS actor,
    a.command_id AS command_id,
    a.result AS result,
    a.reason AS reason,
    a.detail AS detail,
    a.replayed AS replayed,
    c.1 AS attribute,
    c.2 AS before,
    c.3 AS after,
    a.correlation_id AS correlation_id,
    a.source_partition AS source_partition,
    a.chain_number AS chain_number
FROM sync_audit AS a FINAL
LEFT ARRAY JOIN a.changes AS c;

CREATE OR REPLACE VIEW audit_by_source AS
SELECT
    a.program_id AS program_id,
    toDate(a.recorded_at) AS day,
    a.source_system AS source_system,
    a.stream AS stream,
    count() AS events,
    countIf(a.result = 'APPLIED' AND NOT a.replayed) AS applied,
    countIf(a.result = 'REFUSED' AND NOT a.replayed) AS refused,
    countIf(a.result = 'SUPERSEDED' AND NOT a.replayed) AS superseded,
    countIf(a.result = 'CONFLICT') AS conflicts,
    countIf(a.result = 'WAITING') AS waited,
    countIf(a.replayed) AS repeated,
    uniqExact(a.member_id) AS members,
    sum(length(a.changes)) AS changed_attributes,
    quantileExact(0.99)(dateDiff('millisecond', a.occurred_at, a.ingested_at)) AS source_lag_p99_ms,
    quantileExact(0.99)(dateDiff('millisecond', a.ingested_at, a.recorded_at)) AS decision_p99_ms
FROM sync_audit AS a FINAL
GROUP BY program_id, day, source_system, stream;

-- Edits of what another system masters, one row per attribute. The detail is "email is mastered by salesforce; status is mastered by hr".
CREATE OR REPLACE VIEW audit_refused_edits AS
SELECT
    r.program_id AS program_id,
    r.member_id AS member_id,
    r.recorded_at AS recorded_at,
    r.attribute AS attribute,
    r.master AS master,
    r.source_system AS source_system,
    r.actor AS actor,
    r.command_id AS command_id,
    r.correlation_id AS correlation_id
FROM (
    SELECT
        a.program_id, a.member_id, a.recorded_at, a.source_system, a.actor, a.command_id, a.correlation_id,
        arrayJoin(splitByString('; ', assumeNotNull(a.detail))) AS part,
        splitByString(' is mastered by ', part)[1] AS attribute,
        splitByString(' is mastered by ', part)[2] AS master
    FROM sync_audit AS a FINAL
    WHERE a.reason = 'ATTRIBUTE_MASTERED_EXTERNALLY' AND NOT a.replayed
) AS r;

-- Where two systems claim one attribute: the claims that were refused because of its master, and attributes that nobody masters and that more
-- than one system has changed within a day.
CREATE OR REPLACE VIEW audit_contested_attributes AS
SELECT
    e.program_id AS program_id,
    e.attribute AS attribute,
    'mastered' AS why,
    arraySort(groupUniqArray(arrayJoin([e.master, e.source_system]))) AS systems,
    uniqExact(e.member_id) AS members,
    uniqExact(e.member_id, e.command_id) AS claims,
    max(e.recorded_at) AS last_at
FROM audit_refused_edits AS e
GROUP BY program_id, attribute
UNION ALL
SELECT
    d.program_id AS program_id,
    d.attribute AS attribute,
    'changed by several' AS why,
    arraySort(arrayDistinct(arrayFlatten(groupArray(d.systems)))) AS systems,
    uniqExact(d.member_id) AS members,
    sum(d.claims) AS claims,
    max(d.last_at) AS last_at
FROM (
    SELECT
        c.program_id AS program_id, c.member_id AS member_id, c.attribute AS attribute, toDate(c.recorded_at) AS day,
        groupUniqArray(c.source_system) AS systems, count() AS claims, max(c.recorded_at) AS last_at
    FROM audit_member_changes AS c
    WHERE c.result = 'APPLIED' AND NOT c.replayed AND c.stream IN ('enrolments', 'profile-changes') AND c.before IS NOT NULL AND c.attribute != ''
    GROUP BY program_id, member_id, attribute, day
    HAVING length(systems) > 1
) AS d
GROUP BY program_id, attribute;

-- That somebody was erased, when and on whose word; the number is a pseudonym, and nothing else says who it was.
CREATE OR REPLACE VIEW audit_erasures AS
SELECT
    c.program_id AS program_id,
    c.member_id AS member_id,
    c.recorded_at AS recorded_at,
    c.source_system AS source_system,
    c.actor AS actor,
    c.command_id AS command_id,
    dateDiff('millisecond', c.ingested_at, c.recorded_at) AS in_force_ms
FROM audit_member_changes AS c
WHERE c.attribute = 'status' AND c.after = 'ERASED' AND c.result = 'APPLIED' AND NOT c.replayed;

-- in_force_ms is ours: from the broker's append to the decision. source_lag_ms is the source's: until its word was in the log.
CREATE OR REPLACE VIEW audit_suspensions AS
SELECT
    c.program_id AS program_id,
    c.member_id AS member_id,
    c.recorded_at AS recorded_at,
    c.before AS before,
    c.after AS after,
    c.source_system AS source_system,
    c.actor AS actor,
    c.command_id AS command_id,
    c.detail AS detail,
    dateDiff('millisecond', c.ingested_at, c.recorded_at) AS in_force_ms,
    dateDiff('millisecond', c.occurred_at, c.ingested_at) AS source_lag_ms
FROM audit_member_changes AS c
WHERE c.attribute = 'status' AND c.after IN ('SUSPENDED', 'LEFT', 'ACTIVE') AND c.before IS NOT NULL AND c.result = 'APPLIED' AND NOT c.replayed;

CREATE OR REPLACE VIEW audit_rules_changes AS
SELECT
    c.program_id AS program_id,
    c.command_id AS version,
    c.occurred_at AS effective_from,
    c.ingested_at AS published_at,
    c.actor AS published_by,
    c.attribute AS place,
    c.before AS before,
    c.after AS after
FROM audit_member_changes AS c
WHERE c.stream = 'programs';
