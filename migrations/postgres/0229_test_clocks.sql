-- Stripe's own test clocks beside a workspace's: each customer there lives by one, which is advanced when ours is.

ALTER TABLE stripe_settings
    ADD COLUMN test_clocks boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT stripe_settings_test_clocks CHECK (NOT (live AND test_clocks));

ALTER TABLE stripe_customers
    ADD COLUMN test_clock text,
    -- How far the workspace was ahead when it was last advanced.
    ADD COLUMN test_clock_ahead_s bigint;
CREATE INDEX stripe_customers_test_clocks ON stripe_customers (workspace_id) WHERE test_clock IS NOT NULL;
