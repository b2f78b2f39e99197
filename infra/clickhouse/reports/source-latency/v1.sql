-- How late sources tell, and how long a decision takes then; by the day of the append to the log.
SELECT
    a.program_id AS program_id,
    toDate(a.ingested_at) AS period,
    a.source_system AS source_system,
    a.stream AS stream,
    count() AS events,
    quantileExact(0.5)(dateDiff('millisecond', a.occurred_at, a.ingested_at)) AS source_p50_ms,
    quantileExact(0.95)(dateDiff('millisecond', a.occurred_at, a.ingested_at)) AS source_p95_ms,
    quantileExact(0.99)(dateDiff('millisecond', a.occurred_at, a.ingested_at)) AS source_p99_ms,
    quantileExact(0.5)(dateDiff('millisecond', a.ingested_at, a.recorded_at)) AS decision_p50_ms,
    quantileExact(0.95)(dateDiff('millisecond', a.ingested_at, a.recorded_at)) AS decision_p95_ms,
    quantileExact(0.99)(dateDiff('millisecond', a.ingested_at, a.recorded_at)) AS decision_p99_ms
FROM sync_audit AS a FINAL
WHERE NOT a.replayed AND a.result != 'WAITING' AND a.ingested_at >= {since:DateTime64(3, 'UTC')} AND a.ingested_at < {until:DateTime64(3, 'UTC')}
GROUP BY program_id, period, source_system, stream
