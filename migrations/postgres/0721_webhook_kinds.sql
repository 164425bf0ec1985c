-- What our webhook endpoint at Stripe was told to send, so that one that was registered before a kind was listened for is
-- brought up to date.
ALTER TABLE stripe_settings ADD COLUMN endpoint_kinds text[] NOT NULL DEFAULT '{}';
