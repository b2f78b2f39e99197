-- Points redeemed for each point issued in the same month.
SELECT
    l.program_id AS program_id,
    toStartOfMonth(l.occurred_at) AS period,
    sumIf(l.points_delta, l.counter_account = 'issued') AS points_issued,
    sumIf(-l.points_delta, l.counter_account = 'redeemed') AS points_redeemed,
    if(points_issued > 0, points_redeemed / points_issued, NULL) AS redemption_rate
FROM ledger_entries AS l FINAL
WHERE l.counter_account IN ('issued', 'redeemed') AND l.occurred_at >= {since:DateTime64(3, 'UTC')} AND l.occurred_at < {until:DateTime64(3, 'UTC')}
GROUP BY program_id, period
