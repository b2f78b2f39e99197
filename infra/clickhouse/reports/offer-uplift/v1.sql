-- Those who activated an offer: what they earned, without bonuses, in the 30 days from their activation on, beside the 30 days before it; and the
-- same for everybody else around the same days, which is what would have happened anyway.
WITH
    30 AS days,
    activations AS (
        SELECT program_id, assumeNotNull(offer_id) AS offer_id, member_id, min(occurred_at) AS activated_at
        FROM loyalty_events FINAL
        WHERE kind = 'OFFER_ACTIVATED' AND offer_id IS NOT NULL AND occurred_at < {until:DateTime64(3, 'UTC')}
        GROUP BY program_id, offer_id, member_id
    ),
    offers AS (
        SELECT program_id, offer_id, count() AS members, fromUnixTimestamp64Milli(toInt64(avg(toUnixTimestamp64Milli(activated_at))), 'UTC') AS middle_at
        FROM activations GROUP BY program_id, offer_id
    ),
    earned AS (
        SELECT program_id, member_id, occurred_at, points_delta AS points
        FROM ledger_entries FINAL
        WHERE kind = 'EARN' AND counter_account = 'issued' AND occurred_at < {until:DateTime64(3, 'UTC')}
    ),
    mine AS (
        SELECT
            a.program_id AS program_id, a.offer_id AS offer_id,
            sumIf(e.points, e.occurred_at < a.activated_at) AS before,
            sumIf(e.points, e.occurred_at >= a.activated_at) AS since
        FROM activations AS a
        INNER JOIN earned AS e ON e.program_id = a.program_id AND e.member_id = a.member_id
        WHERE e.occurred_at >= a.activated_at - toIntervalDay(days) AND e.occurred_at < a.activated_at + toIntervalDay(days)
        GROUP BY program_id, offer_id
    ),
    others AS (
        SELECT
            o.program_id AS program_id, o.offer_id AS offer_id,
            sumIf(e.points, e.occurred_at < o.middle_at) AS before,
            sumIf(e.points, e.occurred_at >= o.middle_at) AS since
        FROM offers AS o
        INNER JOIN earned AS e ON e.program_id = o.program_id
        WHERE e.occurred_at >= o.middle_at - toIntervalDay(days) AND e.occurred_at < o.middle_at + toIntervalDay(days)
            AND (e.program_id, o.offer_id, e.member_id) NOT IN (SELECT program_id, offer_id, member_id FROM activations)
        GROUP BY program_id, offer_id
    ),
    bonuses AS (
        SELECT program_id, substring(rule_id, 7) AS offer_id, sum(points_delta) AS points
        FROM ledger_entries FINAL
        WHERE kind = 'OFFER_BONUS' AND occurred_at < {until:DateTime64(3, 'UTC')}
        GROUP BY program_id, offer_id
    )
SELECT
    f.program_id AS program_id,
    f.offer_id AS offer_id,
    toDate(f.middle_at) AS period,
    f.members AS members,
    m.before AS points_before,
    m.since AS points_since,
    t.before AS points_before_of_others,
    t.since AS points_since_of_others,
    b.points AS bonus_points,
    if(m.before > 0, m.since / m.before - 1, NULL) AS change_rate,
    if(t.before > 0, t.since / t.before - 1, NULL) AS change_rate_of_others,
    change_rate - change_rate_of_others AS uplift_rate
FROM offers AS f
LEFT JOIN mine AS m USING (program_id, offer_id)
LEFT JOIN others AS t USING (program_id, offer_id)
LEFT JOIN bonuses AS b USING (program_id, offer_id)
