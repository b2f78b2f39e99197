-- Holds and vouchers are found by their ids without reading all events.
ALTER TABLE loyalty_events ADD INDEX IF NOT EXISTS ix_hold hold_id TYPE bloom_filter(0.01) GRANULARITY 4;
ALTER TABLE loyalty_events ADD INDEX IF NOT EXISTS ix_voucher voucher_code TYPE bloom_filter(0.01) GRANULARITY 4;
ALTER TABLE loyalty_events MATERIALIZE INDEX ix_hold;
ALTER TABLE loyalty_events MATERIALIZE INDEX ix_voucher;
