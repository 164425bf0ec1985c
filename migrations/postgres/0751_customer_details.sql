-- SHA-256 of what Stripe was told of the consumer last: it is told again before the next invoice when that changed.
ALTER TABLE stripe_customers ADD COLUMN details text;
