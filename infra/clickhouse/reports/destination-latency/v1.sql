-- From an event's append to the log to the destination's 2xx, by the day of the attempt.
SELECT
    a.destination AS destination,
    toDate(a.started_at) AS period,
    countIf(a.verdict = 'DELIVERED') AS deliveries,
    countIf(a.verdict != 'DELIVERED') AS failed_attempts,
    countIf(a.verdict = 'GIVEN_UP') AS given_up,
    quantileExactIf(0.5)(dateDiff('millisecond', a.appended_at, a.started_at) + intDiv(a.duration_us, 1000), a.verdict = 'DELIVERED')
        AS append_to_2xx_p50_ms,
    quantileExactIf(0.95)(dateDiff('millisecond', a.appended_at, a.started_at) + intDiv(a.duration_us, 1000), a.verdict = 'DELIVERED')
        AS append_to_2xx_p95_ms,
    quantileExactIf(0.99)(dateDiff('millisecond', a.appended_at, a.started_at) + intDiv(a.duration_us, 1000), a.verdict = 'DELIVERED')
        AS append_to_2xx_p99_ms
FROM delivery_attempts AS a FINAL
WHERE a.started_at >= {since:DateTime64(3, 'UTC')} AND a.started_at < {until:DateTime64(3, 'UTC')}
GROUP BY destination, period
