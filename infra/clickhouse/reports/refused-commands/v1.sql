-- What was refused, why, and of which source, by the day of the decision.
SELECT
    a.program_id AS program_id,
    toDate(a.recorded_at) AS period,
    a.stream AS stream,
    a.source_system AS source_system,
    ifNull(a.reason, '') AS reason,
    count() AS refusals,
    uniqExact(a.member_id) AS members
FROM sync_audit AS a FINAL
WHERE a.result IN ('REFUSED', 'CONFLICT') AND NOT a.replayed
    AND a.recorded_at >= {since:DateTime64(3, 'UTC')} AND a.recorded_at < {until:DateTime64(3, 'UTC')}
GROUP BY program_id, period, stream, source_system, reason
