-- Coupons, prepaid credits, and what both did to invoices.

CREATE TABLE coupons (
    id              text PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    code            text NOT NULL,
    name            text NOT NULL,
    -- One of both: 0.25 is 25 %, or an amount by currency.
    share           numeric CHECK (share > 0 AND share <= 1),
    amounts         jsonb,
    -- Invoices' periods it holds for; for ever when none.
    periods         integer CHECK (periods > 0),
    -- Only from prices of these names, and on these plans; everything when empty.
    prices          text[] NOT NULL DEFAULT '{}',
    plans           text[] NOT NULL DEFAULT '{}',
    redeem_by       timestamptz,
    max_redemptions integer CHECK (max_redemptions > 0),
    archived_at     timestamptz,
    created_at      timestamptz NOT NULL,
    CHECK ((share IS NULL) <> (amounts IS NULL)),
    CONSTRAINT coupons_code_once UNIQUE (workspace_id, code)
);

-- Redeemed for a subscription; applied in the order of redemption.
CREATE TABLE subscription_coupons (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    subscription_id text NOT NULL REFERENCES subscriptions (id),
    coupon_id       text NOT NULL REFERENCES coupons (id),
    redeemed_at     timestamptz NOT NULL,
    -- Taken back by a person.
    removed_at      timestamptz,
    CONSTRAINT subscription_coupons_once UNIQUE (subscription_id, coupon_id)
);

-- What a coupon took off an invoice.
CREATE TABLE invoice_discounts (
    invoice_id   text NOT NULL REFERENCES invoices (id) ON DELETE CASCADE,
    coupon_id    text NOT NULL REFERENCES coupons (id),
    workspace_id text NOT NULL REFERENCES workspaces (id),
    amount_minor bigint NOT NULL,
    PRIMARY KEY (invoice_id, coupon_id)
);
CREATE INDEX invoice_discounts_coupon ON invoice_discounts (coupon_id);

-- A grant of prepaid credits. Its balance is what its entries come to, kept beside them and never below zero.
CREATE TABLE credit_grants (
    id            text PRIMARY KEY,
    workspace_id  text NOT NULL REFERENCES workspaces (id),
    consumer_id   text NOT NULL,
    name          text NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('paid', 'promotional', 'included', 'rollover')),
    currency      text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    amount_minor  bigint NOT NULL CHECK (amount_minor > 0),
    balance_minor bigint NOT NULL CHECK (balance_minor >= 0),
    -- It stands for money already taxed, and is used after tax.
    taxed         boolean NOT NULL DEFAULT false,
    -- Lower is used first; then the soonest expiry, then the oldest.
    priority      integer NOT NULL DEFAULT 0,
    effective_at  timestamptz NOT NULL,
    expires_at    timestamptz,
    -- At the expiry, at most so much of what is left goes on as a new grant for so many days; nothing does when none.
    rollover_minor bigint CHECK (rollover_minor > 0),
    rollover_days  integer CHECK (rollover_days > 0),
    rolled_from   text UNIQUE REFERENCES credit_grants (id),
    created_at    timestamptz NOT NULL,
    closed_at     timestamptz,
    CHECK (expires_at IS NULL OR effective_at < expires_at),
    CHECK ((rollover_minor IS NULL) = (rollover_days IS NULL)),
    CHECK (rollover_minor IS NULL OR expires_at IS NOT NULL)
);
CREATE INDEX credit_grants_open ON credit_grants (workspace_id, consumer_id) WHERE balance_minor > 0;
CREATE INDEX credit_grants_expiring ON credit_grants (workspace_id, expires_at) WHERE balance_minor > 0;

-- Double entry: each moves an amount from one account to another. `balance` is what the consumer may use.
CREATE TABLE credit_entries (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    grant_id     text NOT NULL REFERENCES credit_grants (id),
    from_account text NOT NULL CHECK (from_account IN ('granted', 'balance', 'used', 'expired', 'voided', 'rolled_over')),
    to_account   text NOT NULL CHECK (to_account IN ('granted', 'balance', 'used', 'expired', 'voided', 'rolled_over')),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    invoice_id   text REFERENCES invoices (id),
    at           timestamptz NOT NULL,
    CHECK (from_account <> to_account),
    CHECK ('balance' IN (from_account, to_account))
);
CREATE INDEX credit_entries_grant ON credit_entries (grant_id, id);
CREATE INDEX credit_entries_invoice ON credit_entries (invoice_id) WHERE invoice_id IS NOT NULL;
-- An invoice takes from a grant once, and gives it back once.
CREATE UNIQUE INDEX credit_entries_used_once ON credit_entries (grant_id, invoice_id, to_account) WHERE invoice_id IS NOT NULL;

CREATE FUNCTION credit_entries_post() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN RAISE EXCEPTION 'entries of the credit ledger never change; write another'; END IF;
    UPDATE credit_grants SET balance_minor = balance_minor
        + CASE WHEN NEW.to_account = 'balance' THEN NEW.amount_minor ELSE -NEW.amount_minor END
        WHERE id = NEW.grant_id;
    RETURN NEW;
END $$;
CREATE TRIGGER credit_entries_post AFTER INSERT ON credit_entries FOR EACH ROW EXECUTE FUNCTION credit_entries_post();
CREATE TRIGGER credit_entries_stay BEFORE UPDATE OR DELETE ON credit_entries FOR EACH ROW EXECUTE FUNCTION credit_entries_post();

ALTER TABLE invoice_lines
    -- Its share of the invoice's discounts and prepaid credits: amount - discount - credit is left, and taxed.
    ADD COLUMN discount_minor bigint NOT NULL DEFAULT 0,
    ADD COLUMN credit_minor   bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT invoice_lines_kind_check,
    ADD CONSTRAINT invoice_lines_kind_check CHECK (kind IN ('fee', 'usage', 'minimum', 'cap', 'carried', 'adjustment', 'credit'));
-- Why no tax is charged.
ALTER TABLE invoices ADD COLUMN tax_note text;
