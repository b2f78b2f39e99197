-- Of those who enrolled in a month, how many earned or spent something so many months later.
WITH
    cohorts AS (
        SELECT program_id, member_id, toStartOfMonth(min(occurred_at)) AS enrolled
        FROM loyalty_events FINAL
        WHERE kind = 'MEMBER_ENROLLED' AND occurred_at < {until:DateTime64(3, 'UTC')}
        GROUP BY program_id, member_id
    ),
    sizes AS (SELECT program_id, enrolled, count() AS members FROM cohorts GROUP BY program_id, enrolled),
    active AS (
        SELECT DISTINCT program_id, member_id, toStartOfMonth(occurred_at) AS month
        FROM ledger_entries FINAL
        WHERE kind IN ('EARN', 'OFFER_BONUS', 'REDEEM', 'CAPTURE', 'HOLD') AND occurred_at < {until:DateTime64(3, 'UTC')}
    )
SELECT
    c.program_id AS program_id,
    c.enrolled AS period,
    dateDiff('month', c.enrolled, a.month) AS months_since,
    any(s.members) AS members,
    uniqExact(c.member_id) AS active_members,
    active_members / members AS retention_rate
FROM cohorts AS c
INNER JOIN active AS a ON a.program_id = c.program_id AND a.member_id = c.member_id
INNER JOIN sizes AS s ON s.program_id = c.program_id AND s.enrolled = c.enrolled
WHERE a.month >= c.enrolled
GROUP BY program_id, period, months_since
