-- The full ledger: four accounts per member (available, pending, held, debt), lots, hash chain. Rows of before keep their meaning by the
-- defaults: then every entry was about available points.

ALTER TABLE ledger_entries
    ADD COLUMN IF NOT EXISTS account LowCardinality(String) DEFAULT 'available' COMMENT 'The member''s: available, pending, held or debt' AFTER correlation_id,
    ADD COLUMN IF NOT EXISTS rule_version UInt64 DEFAULT 0 COMMENT 'Version of the programme; 0 before there were versions' AFTER account,
    ADD COLUMN IF NOT EXISTS available_after Int64 DEFAULT balance_after AFTER rule_version,
    ADD COLUMN IF NOT EXISTS lots Array(Tuple(lot_id String, points Int64, expires_at Nullable(DateTime64(3, 'UTC')))) AFTER available_after,
    ADD COLUMN IF NOT EXISTS counter_member_id Nullable(String) COMMENT 'Transfers, merges, pools: the other member' AFTER lots,
    ADD COLUMN IF NOT EXISTS previous_hash String COMMENT 'entry_hash of the member''s entry before; empty for the first' AFTER counter_member_id,
    ADD COLUMN IF NOT EXISTS entry_hash String COMMENT 'Empty: from before entries were hashed' AFTER previous_hash;

ALTER TABLE loyalty_events
    ADD COLUMN IF NOT EXISTS pending_points Int64 AFTER qualifying_points,
    ADD COLUMN IF NOT EXISTS held_points Int64 AFTER pending_points,
    ADD COLUMN IF NOT EXISTS debt_points Int64 COMMENT 'What the member owes, above 0' AFTER held_points,
    ADD COLUMN IF NOT EXISTS tier_valid_until Nullable(DateTime64(3, 'UTC')) COMMENT 'Empty: the tier has no end' AFTER debt_points,
    ADD COLUMN IF NOT EXISTS movement LowCardinality(Nullable(String)) COMMENT 'Kind of the first ledger entry' AFTER correlation_id,
    ADD COLUMN IF NOT EXISTS lots Array(Tuple(lot_id String, points Int64, expires_at Nullable(DateTime64(3, 'UTC')))) AFTER movement,
    ADD COLUMN IF NOT EXISTS hold_id Nullable(String) AFTER lots,
    ADD COLUMN IF NOT EXISTS expires_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Of the voucher, the hold or the points' AFTER hold_id,
    ADD COLUMN IF NOT EXISTS counter_member_id Nullable(String) COMMENT 'Transfers, merges, pools: the other member' AFTER expires_at,
    ADD COLUMN IF NOT EXISTS effective_at Nullable(DateTime64(3, 'UTC')) COMMENT 'STATUS_SCHEDULED: when it takes effect' AFTER counter_member_id;

-- The newest event of each member says it all: events hold absolute values. The tuple keeps an empty tier_valid_until: argMax passes over NULL.
CREATE OR REPLACE VIEW balances AS
SELECT
    e.program_id AS program_id,
    e.member_id AS member_id,
    argMax(e.status, e.sequence) AS status,
    argMax(e.tier, e.sequence) AS tier,
    argMax(e.available_points, e.sequence) AS available_points,
    argMax(e.qualifying_points, e.sequence) AS qualifying_points,
    argMax(e.pending_points, e.sequence) AS pending_points,
    argMax(e.held_points, e.sequence) AS held_points,
    argMax(e.debt_points, e.sequence) AS debt_points,
    argMax(tuple(e.tier_valid_until), e.sequence).1 AS tier_valid_until,
    max(e.sequence) AS last_sequence,
    argMax(e.occurred_at, e.sequence) AS last_occurred_at,
    argMax(e.recorded_at, e.sequence) AS last_recorded_at
FROM loyalty_events AS e
GROUP BY program_id, member_id;

-- Every day's points by source, of the points that can be spent: what only moves between a member's other accounts is no income.
CREATE OR REPLACE VIEW points_by_day_and_source AS
SELECT
    l.program_id AS program_id,
    toDate(l.occurred_at) AS day,
    l.source_system AS source_system,
    l.kind AS kind,
    count() AS entries,
    uniqExact(l.member_id) AS members,
    sumIf(l.points_delta, l.points_delta > 0) AS points_in,
    sumIf(-l.points_delta, l.points_delta < 0) AS points_out,
    sum(l.points_delta) AS points
FROM ledger_entries AS l FINAL
WHERE l.account = 'available'
GROUP BY program_id, day, source_system, kind;

-- Every entry with the sum of all that moved each of the member's accounts so far; debt is below 0. An entry moves `account` by points_delta,
-- and counter_account, if that is the member's own, by as much the other way. `unexplained_points`: what balance_after has beyond that sum.
CREATE OR REPLACE VIEW ledger_balances AS
SELECT
    l.program_id AS program_id,
    l.member_id AS member_id,
    l.entry_sequence AS entry_sequence,
    l.entry_id AS entry_id,
    l.kind AS kind,
    l.account AS account,
    l.counter_account AS counter_account,
    l.points_delta AS points_delta,
    l.balance_after AS balance_after,
    l.occurred_at AS occurred_at,
    l.recorded_at AS recorded_at,
    sum(multiIf(l.account = 'available', l.points_delta, l.counter_account = 'available', -l.points_delta, 0)) OVER so_far AS available,
    sum(multiIf(l.account = 'pending', l.points_delta, l.counter_account = 'pending', -l.points_delta, 0)) OVER so_far AS pending,
    sum(multiIf(l.account = 'held', l.points_delta, l.counter_account = 'held', -l.points_delta, 0)) OVER so_far AS held,
    sum(multiIf(l.account = 'debt', l.points_delta, l.counter_account = 'debt', -l.points_delta, 0)) OVER so_far AS debt,
    l.balance_after - multiIf(
        l.account = 'available', available, l.account = 'pending', pending, l.account = 'held', held, l.account = 'debt', debt, 0
    ) AS unexplained_points
FROM ledger_entries AS l FINAL
WINDOW so_far AS (PARTITION BY l.program_id, l.member_id ORDER BY l.entry_sequence ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW);

-- Proof per member: no entry is missing or double, and after every single one its account holds what the entries so far add up to.
CREATE OR REPLACE VIEW reconciliation AS
SELECT
    b.program_id AS program_id,
    b.member_id AS member_id,
    count() AS entries,
    max(b.entry_sequence) AS last_entry_sequence,
    sumIf(b.points_delta, b.account = 'available') AS points_sum,
    argMaxIf(b.balance_after, b.entry_sequence, b.account = 'available') AS last_balance,
    countIf(b.unexplained_points != 0) AS unexplained_entries,
    entries = last_entry_sequence AS gapless,
    unexplained_entries = 0 AS balanced
FROM ledger_balances AS b
GROUP BY program_id, member_id;

-- Proof per programme: what all members have, by the balances that the entries state, and what the programme's own accounts have, by the
-- movements, is zero in sum. An entry that was lost, changed, or booked against an account that nobody knows shows here.
CREATE OR REPLACE VIEW zero_sum AS
SELECT
    m.program_id AS program_id,
    count() AS members,
    sum(m.member_available) AS available,
    sum(m.member_pending) AS pending,
    sum(m.member_held) AS held,
    sum(m.member_debt) AS debt,
    sum(m.member_issued) AS issued,
    sum(m.member_redeemed) AS redeemed,
    sum(m.member_adjusted) AS adjusted,
    sum(m.member_expired) AS expired,
    sum(m.member_in_transit) AS in_transit,
    available + pending + held + debt + issued + redeemed + adjusted + expired + in_transit AS total,
    total = 0 AS is_zero
FROM (
    SELECT
        b.program_id AS program_id,
        b.member_id AS member_id,
        argMax(b.available, b.entry_sequence) + argMaxIf(b.unexplained_points, b.entry_sequence, b.account = 'available') AS member_available,
        argMax(b.pending, b.entry_sequence) + argMaxIf(b.unexplained_points, b.entry_sequence, b.account = 'pending') AS member_pending,
        argMax(b.held, b.entry_sequence) + argMaxIf(b.unexplained_points, b.entry_sequence, b.account = 'held') AS member_held,
        argMax(b.debt, b.entry_sequence) + argMaxIf(b.unexplained_points, b.entry_sequence, b.account = 'debt') AS member_debt,
        sumIf(-b.points_delta, b.counter_account = 'issued') AS member_issued,
        sumIf(-b.points_delta, b.counter_account = 'redeemed') AS member_redeemed,
        sumIf(-b.points_delta, b.counter_account = 'adjusted') AS member_adjusted,
        sumIf(-b.points_delta, b.counter_account = 'expired') AS member_expired,
        sumIf(-b.points_delta, b.counter_account = 'in_transit') AS member_in_transit
    FROM ledger_balances AS b
    GROUP BY program_id, member_id
) AS m
GROUP BY program_id;

-- Proof per member: every entry names the hash of the one before, so that none was changed, left out or put in later. Entries from before
-- there were hashes have empty ones, and pass.
CREATE OR REPLACE VIEW hash_chain AS
SELECT
    c.program_id AS program_id,
    c.member_id AS member_id,
    count() AS entries,
    countIf(c.entry_hash != '') AS hashed_entries,
    countIf(c.previous_hash != c.hash_before) AS breaks,
    minIf(c.entry_sequence, c.previous_hash != c.hash_before) AS first_break_sequence,
    breaks = 0 AS chained
FROM (
    SELECT
        l.program_id AS program_id,
        l.member_id AS member_id,
        l.entry_sequence AS entry_sequence,
        l.previous_hash AS previous_hash,
        l.entry_hash AS entry_hash,
        lagInFrame(l.entry_hash) OVER (
            PARTITION BY l.program_id, l.member_id ORDER BY l.entry_sequence ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS hash_before
    FROM ledger_entries AS l FINAL
) AS c
GROUP BY program_id, member_id;
