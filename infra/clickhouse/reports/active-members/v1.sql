-- Who earned or spent something in a month. What a clock does, expiry, is no activity.
SELECT
    l.program_id AS program_id,
    toStartOfMonth(l.occurred_at) AS period,
    uniqExact(l.member_id) AS active_members,
    uniqExactIf(l.member_id, l.kind IN ('EARN', 'OFFER_BONUS')) AS earning_members,
    uniqExactIf(l.member_id, l.kind IN ('REDEEM', 'CAPTURE', 'HOLD')) AS spending_members,
    count() AS entries
FROM ledger_entries AS l FINAL
WHERE l.kind IN ('EARN', 'OFFER_BONUS', 'REDEEM', 'CAPTURE', 'HOLD')
    AND l.occurred_at >= {since:DateTime64(3, 'UTC')} AND l.occurred_at < {until:DateTime64(3, 'UTC')}
GROUP BY program_id, period
