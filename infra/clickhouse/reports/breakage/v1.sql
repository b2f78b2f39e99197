-- Each lot with what was issued into it and what expired of it, by the month of its first entry.
SELECT
    program_id,
    toStartOfMonth(earned_at) AS period,
    count() AS lots,
    sum(issued) AS points_issued,
    sum(expired) AS points_expired,
    if(points_issued > 0, points_expired / points_issued, NULL) AS breakage_rate
FROM (
    SELECT
        l.program_id AS program_id, l.member_id AS member_id, part.1 AS lot_id, min(l.occurred_at) AS earned_at,
        sumIf(sign(l.points_delta) * part.2, l.counter_account = 'issued') AS issued,
        sumIf(-sign(l.points_delta) * part.2, l.counter_account = 'expired') AS expired
    FROM ledger_entries AS l FINAL ARRAY JOIN l.lots AS part
    WHERE part.1 != '' AND l.occurred_at < {until:DateTime64(3, 'UTC')}
    GROUP BY program_id, member_id, lot_id
)
WHERE issued > 0
GROUP BY program_id, period
