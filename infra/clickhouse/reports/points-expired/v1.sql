-- Points expired, by the day on which it happened, UTC.
SELECT
    l.program_id AS program_id,
    toDate(l.occurred_at) AS period,
    l.source_system AS source_system,
    l.kind AS kind,
    l.rule_id AS rule_id,
    count() AS entries,
    uniqExact(l.member_id) AS members,
    sum(-l.points_delta) AS points
FROM ledger_entries AS l FINAL
WHERE l.counter_account = 'expired'
    AND l.occurred_at >= {since:DateTime64(3, 'UTC')} AND l.occurred_at < {until:DateTime64(3, 'UTC')}
GROUP BY program_id, period, source_system, kind, rule_id
