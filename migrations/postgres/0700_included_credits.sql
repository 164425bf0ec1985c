-- Credits that the periods of a plan come with, and credits in units of a meter.

ALTER TABLE credit_grants
    -- Serves only this subscription.
    ADD COLUMN subscription_id text REFERENCES subscriptions (id),
    -- The period it came with, by where the whole period begins, and the plan version that says so.
    ADD COLUMN period_start    timestamptz,
    ADD COLUMN plan_version_id text REFERENCES plan_versions (id),
    -- Taken back, since another plan turned out to be in force in the period.
    ADD COLUMN withdrawn       boolean NOT NULL DEFAULT false,
    -- Only for lines of prices of these names; for all when empty.
    ADD COLUMN prices          text[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT credit_grants_included CHECK (period_start IS NULL OR subscription_id IS NOT NULL);
-- Exactly one for each subscription and period, whoever grants it how often.
CREATE UNIQUE INDEX credit_grants_included_once ON credit_grants (subscription_id, period_start, name)
    WHERE period_start IS NOT NULL AND NOT withdrawn;

-- When to look again at what a subscription's periods come with; none where no plan of it includes credits.
ALTER TABLE subscriptions ADD COLUMN included_until timestamptz;
CREATE INDEX subscriptions_included ON subscriptions (workspace_id, included_until) WHERE included_until IS NOT NULL;

-- A grant of units of a meter. Its balance is what its entries come to, kept beside them and never below zero.
CREATE TABLE unit_grants (
    id              text PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    consumer_id     text NOT NULL,
    name            text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('paid', 'promotional', 'included', 'rollover')),
    meter           text NOT NULL,
    units           numeric NOT NULL CHECK (units > 0),
    balance         numeric NOT NULL CHECK (balance >= 0),
    -- Lower is used first; then the soonest expiry, then the oldest.
    priority        integer NOT NULL DEFAULT 0,
    effective_at    timestamptz NOT NULL,
    expires_at      timestamptz,
    -- At the expiry, at most so many of what is left go on as a new grant for so many days; none do when none.
    rollover_units  numeric CHECK (rollover_units > 0),
    rollover_days   integer CHECK (rollover_days > 0),
    rolled_from     text UNIQUE REFERENCES unit_grants (id),
    -- As of credits in money.
    subscription_id text REFERENCES subscriptions (id),
    period_start    timestamptz,
    plan_version_id text REFERENCES plan_versions (id),
    withdrawn       boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL,
    closed_at       timestamptz,
    CHECK (expires_at IS NULL OR effective_at < expires_at),
    CHECK ((rollover_units IS NULL) = (rollover_days IS NULL)),
    CHECK (rollover_units IS NULL OR expires_at IS NOT NULL),
    CHECK (period_start IS NULL OR subscription_id IS NOT NULL)
);
CREATE INDEX unit_grants_open ON unit_grants (workspace_id, consumer_id) WHERE balance > 0;
CREATE INDEX unit_grants_expiring ON unit_grants (workspace_id, expires_at) WHERE balance > 0;
CREATE UNIQUE INDEX unit_grants_included_once ON unit_grants (subscription_id, period_start, name)
    WHERE period_start IS NOT NULL AND NOT withdrawn;

-- Double entry: each moves units from one account to another. `balance` is what the consumer may use.
CREATE TABLE unit_entries (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    grant_id        text NOT NULL REFERENCES unit_grants (id),
    from_account    text NOT NULL CHECK (from_account IN ('granted', 'balance', 'used', 'expired', 'voided', 'rolled_over')),
    to_account      text NOT NULL CHECK (to_account IN ('granted', 'balance', 'used', 'expired', 'voided', 'rolled_over')),
    units           numeric NOT NULL CHECK (units > 0),
    -- Of what was used: on which invoice (none where a credit note corrected it), for which usage.
    invoice_id      text REFERENCES invoices (id),
    subscription_id text REFERENCES subscriptions (id),
    stretch_start   timestamptz,
    -- The end of the price's period that the stretch lies in.
    period_end      timestamptz,
    -- Back to the balance because the invoice is void: the usage stays covered, for what it would have cost is forgiven.
    voided          boolean NOT NULL DEFAULT false,
    at              timestamptz NOT NULL,
    CHECK (from_account <> to_account),
    CHECK ('balance' IN (from_account, to_account)),
    CHECK (('used' IN (from_account, to_account)) = (subscription_id IS NOT NULL AND stretch_start IS NOT NULL AND period_end IS NOT NULL)),
    CHECK (NOT voided OR (to_account = 'balance' AND invoice_id IS NOT NULL))
);
CREATE INDEX unit_entries_grant ON unit_entries (grant_id, id);
CREATE INDEX unit_entries_invoice ON unit_entries (invoice_id) WHERE invoice_id IS NOT NULL;
CREATE INDEX unit_entries_usage ON unit_entries (subscription_id, period_end) WHERE subscription_id IS NOT NULL;
-- An invoice takes units from a grant for a stretch once, and gives them back once.
CREATE UNIQUE INDEX unit_entries_once ON unit_entries (grant_id, invoice_id, subscription_id, stretch_start, period_end, to_account, voided)
    WHERE invoice_id IS NOT NULL;

CREATE FUNCTION unit_entries_post() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN RAISE EXCEPTION 'entries of the credit ledger never change; write another'; END IF;
    UPDATE unit_grants SET balance = balance + CASE WHEN NEW.to_account = 'balance' THEN NEW.units ELSE -NEW.units END
        WHERE id = NEW.grant_id;
    RETURN NEW;
END $$;
CREATE TRIGGER unit_entries_post AFTER INSERT ON unit_entries FOR EACH ROW EXECUTE FUNCTION unit_entries_post();
CREATE TRIGGER unit_entries_stay BEFORE UPDATE OR DELETE ON unit_entries FOR EACH ROW EXECUTE FUNCTION unit_entries_post();
