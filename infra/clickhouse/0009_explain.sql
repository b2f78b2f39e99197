-- What is asked of one moment, and of one event.

-- The points of every member who has entries, as of a moment: `effective` is when things happened, by their sources' word; `recorded` is when
-- they were known here, by the worker's clock. Both instants are included. `debt_points` is what is owed, above 0.
CREATE OR REPLACE VIEW balances_as_of AS
SELECT
    l.program_id AS program_id,
    l.member_id AS member_id,
    sum(multiIf(l.account = 'available', l.points_delta, l.counter_account = 'available', -l.points_delta, 0)) AS available_points,
    sum(multiIf(l.account = 'pending', l.points_delta, l.counter_account = 'pending', -l.points_delta, 0)) AS pending_points,
    sum(multiIf(l.account = 'held', l.points_delta, l.counter_account = 'held', -l.points_delta, 0)) AS held_points,
    -sum(multiIf(l.account = 'debt', l.points_delta, l.counter_account = 'debt', -l.points_delta, 0)) AS debt_points,
    count() AS entries,
    max(l.entry_sequence) AS last_entry_sequence,
    max(l.recorded_at) AS last_recorded_at
FROM ledger_entries AS l FINAL
WHERE l.occurred_at <= {effective:DateTime64(3, 'UTC')} AND l.recorded_at <= {recorded:DateTime64(3, 'UTC')}
GROUP BY program_id, member_id;

-- The status and the tier of every member as of a moment: those of the newest event that had happened, and was known, by then.
CREATE OR REPLACE VIEW standings_as_of AS
SELECT
    e.program_id AS program_id,
    e.member_id AS member_id,
    argMax(e.status, e.sequence) AS status,
    argMax(e.tier, e.sequence) AS tier,
    max(e.sequence) AS sequence
FROM loyalty_events AS e
WHERE e.occurred_at <= {effective:DateTime64(3, 'UTC')} AND e.recorded_at <= {recorded:DateTime64(3, 'UTC')}
GROUP BY program_id, member_id;

-- An entry is found by its id without reading the ledger.
ALTER TABLE ledger_entries ADD INDEX IF NOT EXISTS ix_entry entry_id TYPE bloom_filter(0.01) GRANULARITY 4;
ALTER TABLE ledger_entries MATERIALIZE INDEX ix_entry;
