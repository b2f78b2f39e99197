-- Every change of a tier, from which to which. `occurred_at` of a demotion is the end of the period.
SELECT
    e.program_id AS program_id,
    toStartOfMonth(e.occurred_at) AS period,
    ifNull(e.previous_tier, '') AS previous_tier,
    e.tier AS tier,
    count() AS changes,
    uniqExact(e.member_id) AS members
FROM loyalty_events AS e FINAL
WHERE e.kind = 'TIER_CHANGED' AND e.occurred_at >= {since:DateTime64(3, 'UTC')} AND e.occurred_at < {until:DateTime64(3, 'UTC')}
GROUP BY program_id, period, previous_tier, tier
