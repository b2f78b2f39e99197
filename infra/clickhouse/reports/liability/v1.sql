-- What members have, or are to have, at the instant `until`, by the month in which it expires; what never expires has no month.
WITH
    ['available', 'pending', 'held'] AS own,
    moves AS (
        SELECT
            l.program_id AS program_id, l.member_id AS member_id, l.entry_sequence AS entry_sequence, l.lots AS lots,
            multiIf(
                has(own, l.account) AND has(own, l.counter_account), 0,
                has(own, l.account), l.points_delta,
                has(own, l.counter_account), -l.points_delta,
                0
            ) AS change
        FROM ledger_entries AS l FINAL
        WHERE l.occurred_at < {until:DateTime64(3, 'UTC')}
    ),
    open_lots AS (
        SELECT
            program_id, member_id, part.1 AS lot_id,
            sum(sign(change) * part.2) AS points,
            argMax(tuple(part.3), entry_sequence).1 AS expires_at
        FROM moves ARRAY JOIN lots AS part
        WHERE change != 0
        GROUP BY program_id, member_id, lot_id
    ),
    totals AS (SELECT program_id, member_id, sum(change) AS points FROM moves GROUP BY program_id, member_id),
    parts AS (
        SELECT program_id, member_id, toNullable(toStartOfMonth(expires_at)) AS expires, points, 'by lots' AS known FROM open_lots WHERE points != 0
        UNION ALL
        SELECT t.program_id AS program_id, t.member_id AS member_id, CAST(NULL AS Nullable(Date)) AS expires, t.points - o.points AS points,
            'not in lots' AS known
        FROM totals AS t
        LEFT JOIN (SELECT program_id, member_id, sum(points) AS points FROM open_lots GROUP BY program_id, member_id) AS o USING (program_id, member_id)
        WHERE t.points != o.points
    )
SELECT
    p.program_id AS program_id,
    toDate({until:DateTime64(3, 'UTC')}) AS period,
    p.expires AS expires,
    uniqExact(p.member_id) AS members,
    sum(p.points) AS points,
    sumIf(p.points, p.known = 'not in lots') AS points_not_in_lots
FROM parts AS p
GROUP BY program_id, expires
