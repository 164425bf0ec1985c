-- Subscriptions on any interval, with quantities, add-ons, pauses and contracts of their own.

ALTER TABLE subscriptions
    -- Everything before it is invoiced, or had nothing to invoice.
    ADD COLUMN closed_until timestamptz,
    -- When the next period ends that has something to close; none when nothing is left.
    ADD COLUMN closes_at    timestamptz,
    -- What was paid in advance beyond the end is given back.
    ADD COLUMN credit_at_end boolean NOT NULL DEFAULT true,
    -- The plan version to resume; set while it is paused.
    ADD COLUMN paused_version text REFERENCES plan_versions (id);
UPDATE subscriptions s SET closed_until =
    (SELECT max(i.period_end) FROM invoices i WHERE i.subscription_id = s.id AND i.kind = 'regular' AND i.state <> 'draft');
UPDATE subscriptions s SET closes_at = coalesce(closed_until, started_at)
    WHERE EXISTS (SELECT FROM subscription_phases f WHERE f.subscription_id = s.id);
CREATE INDEX subscriptions_closes ON subscriptions (workspace_id, closes_at) WHERE closes_at IS NOT NULL;
CREATE INDEX invoices_drafts ON invoices (workspace_id, subscription_id) WHERE state = 'draft';

ALTER TABLE subscription_phases ADD COLUMN quantity numeric NOT NULL DEFAULT 1 CHECK (quantity >= 0);

-- A price attached to a subscription for a time: [from_at, to_at), whole minutes.
CREATE TABLE subscription_add_ons (
    id              text PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    subscription_id text NOT NULL REFERENCES subscriptions (id),
    -- As a price of the catalogue. Never changes; a change is another add-on.
    price           jsonb NOT NULL,
    -- The plan it stands beside: its periods and terms are the add-on's.
    beside          text NOT NULL REFERENCES plan_versions (id),
    quantity        numeric NOT NULL CHECK (quantity > 0),
    from_at         timestamptz NOT NULL CHECK (from_at = date_trunc('minute', from_at)),
    to_at           timestamptz CHECK (to_at = date_trunc('minute', to_at)),
    created_at      timestamptz NOT NULL,
    CHECK (to_at IS NULL OR from_at <= to_at)
);
CREATE INDEX subscription_add_ons_of ON subscription_add_ons (subscription_id, from_at);

ALTER TABLE invoice_lines
    ADD COLUMN add_on_id text REFERENCES subscription_add_ons (id),
    -- The value of the dimension that a line of a matrix is for.
    ADD COLUMN value     text,
    -- What a usage line was rated from, to rate it again.
    ADD COLUMN basis     jsonb;
CREATE INDEX invoice_lines_of_add_ons ON invoice_lines (add_on_id) WHERE add_on_id IS NOT NULL;

-- A plan for one consumer: a contract. Others do not see it.
ALTER TABLE plans ADD COLUMN consumer_id text;

-- How a workspace bills; what is not here has its default.
CREATE TABLE billing_settings (
    workspace_id text PRIMARY KEY REFERENCES workspaces (id),
    -- Periods before it were billed elsewhere: history can be imported without being invoiced.
    close_from   timestamptz CHECK (close_from = date_trunc('minute', close_from)),
    updated_at   timestamptz NOT NULL
);

-- How one consumer is billed; what is not here is as in the workspace.
CREATE TABLE consumer_billing (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    consumer_id  text NOT NULL,
    -- Of subscriptions to come.
    currency     text CHECK (currency ~ '^[A-Z]{3}$'),
    tax_status   text NOT NULL DEFAULT 'taxable' CHECK (tax_status IN ('taxable', 'exempt', 'reverse_charge')),
    -- Why no tax is charged; printed on the invoice.
    tax_reason   text,
    tax_id       text,
    updated_at   timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, consumer_id),
    CHECK (tax_status = 'taxable' OR tax_reason IS NOT NULL)
);
