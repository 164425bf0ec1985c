-- Plans, subscriptions, invoices. Amounts are integer minor units of the row's currency.

CREATE TABLE plans (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    name         text NOT NULL,
    product      text NOT NULL,
    created_at   timestamptz NOT NULL,
    -- Kept for those who have it, no longer offered.
    archived_at  timestamptz,
    CONSTRAINT plans_name_once UNIQUE (workspace_id, name)
);

-- A version is published when it is written, and never changes after: subscriptions pin it.
CREATE TABLE plan_versions (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    plan_id      text NOT NULL REFERENCES plans (id),
    version      integer NOT NULL CHECK (version > 0),
    definition   jsonb NOT NULL,
    published_at timestamptz NOT NULL,
    CONSTRAINT plan_versions_once UNIQUE (plan_id, version)
);

CREATE FUNCTION plan_versions_are_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'plan version % is published and never changes; publish another version', OLD.id;
END $$;
CREATE TRIGGER plan_versions_immutable BEFORE UPDATE OR DELETE ON plan_versions
    FOR EACH ROW EXECUTE FUNCTION plan_versions_are_immutable();

-- A consumer's agreement for one product. What holds when is in its phases.
CREATE TABLE subscriptions (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    consumer_id  text NOT NULL,
    product      text NOT NULL,
    currency     text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    started_at   timestamptz NOT NULL,
    -- Known in advance when it ends at a period's end.
    ended_at     timestamptz,
    created_at   timestamptz NOT NULL,
    CHECK (ended_at IS NULL OR started_at <= ended_at)
);
CREATE INDEX subscriptions_consumer ON subscriptions (workspace_id, consumer_id, product, started_at);

-- [from_at, to_at): the plan version in force. Whole minutes. The phases of a subscription follow each other
-- without overlap; across the subscriptions of a consumer and product the timeline in metering keeps them apart.
CREATE TABLE subscription_phases (
    subscription_id text NOT NULL REFERENCES subscriptions (id),
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    plan_version_id text NOT NULL REFERENCES plan_versions (id),
    from_at         timestamptz NOT NULL CHECK (from_at = date_trunc('minute', from_at)),
    to_at           timestamptz CHECK (to_at = date_trunc('minute', to_at)),
    -- Nothing is charged in a trial.
    trial           boolean NOT NULL DEFAULT false,
    PRIMARY KEY (subscription_id, from_at),
    CHECK (to_at IS NULL OR from_at < to_at)
);
CREATE INDEX subscription_phases_version ON subscription_phases (plan_version_id);

-- A number is taken in the transaction that issues its invoice, so a series has no gaps.
CREATE TABLE number_series (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    prefix       text NOT NULL CHECK (length(prefix) <= 16),
    last         bigint NOT NULL CHECK (last > 0),
    PRIMARY KEY (workspace_id, prefix)
);

CREATE TABLE invoices (
    id              text PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    consumer_id     text NOT NULL,
    subscription_id text NOT NULL REFERENCES subscriptions (id),
    kind            text NOT NULL CHECK (kind IN ('regular', 'threshold', 'adjustment', 'final')),
    sequence        integer NOT NULL DEFAULT 0 CHECK (sequence >= 0),
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    state           text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft', 'issued', 'paid', 'void', 'uncollectible')),
    number          text CHECK (length(number) <= 26),
    currency        text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    -- Sum of the lines without tax, the tax, and both together.
    subtotal_minor  bigint NOT NULL,
    tax_minor       bigint NOT NULL,
    total_minor     bigint NOT NULL,
    collect         text NOT NULL CHECK (collect IN ('automatically', 'send_invoice')),
    due_days        integer NOT NULL CHECK (due_days >= 0),
    -- As they were when it was drafted.
    seller          jsonb NOT NULL,
    buyer           jsonb NOT NULL,
    created_at      timestamptz NOT NULL,
    issued_at       timestamptz,
    due_at          timestamptz,
    paid_at         timestamptz,
    closed_at       timestamptz,
    -- Too small to collect, or negative: settled by a line on the consumer's next invoice.
    carried         boolean NOT NULL DEFAULT false,
    carried_into    text REFERENCES invoices (id),
    stripe_id       text UNIQUE,
    hosted_url      text,
    pushed_at       timestamptz,
    CHECK (period_start < period_end),
    CHECK (subtotal_minor + tax_minor = total_minor),
    CHECK ((state = 'draft') = (number IS NULL)),
    CHECK ((state = 'draft') = (issued_at IS NULL)),
    -- Exactly one for each subscription, period, kind and sequence, however many workers close it.
    CONSTRAINT invoices_once UNIQUE (subscription_id, period_start, kind, sequence),
    CONSTRAINT invoices_number_once UNIQUE (workspace_id, number)
);
CREATE INDEX invoices_workspace ON invoices (workspace_id, id);
CREATE INDEX invoices_consumer ON invoices (workspace_id, consumer_id, id);
CREATE INDEX invoices_to_push ON invoices (workspace_id) WHERE state = 'issued' AND stripe_id IS NULL;
CREATE INDEX invoices_to_carry ON invoices (consumer_id) WHERE carried AND carried_into IS NULL;

CREATE TABLE invoice_lines (
    id              text PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    invoice_id      text NOT NULL REFERENCES invoices (id) ON DELETE CASCADE,
    position        integer NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('fee', 'usage', 'minimum', 'cap', 'carried')),
    name            text NOT NULL,
    -- The price of the plan version, by name; and its meter.
    plan_version_id text REFERENCES plan_versions (id),
    price           text,
    meter           text,
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    quantity        numeric NOT NULL,
    -- As priced: with the tax where it is inclusive, without it where it is exclusive.
    amount_minor    bigint NOT NULL,
    tax_name        text,
    tax_rate        numeric,
    tax_inclusive   boolean,
    tax_minor       bigint NOT NULL DEFAULT 0,
    explanation     text NOT NULL,
    -- What the quantity was counted from, sealed with the line.
    proof           jsonb,
    UNIQUE (invoice_id, position)
);
CREATE INDEX invoice_lines_fees ON invoice_lines (plan_version_id, period_start) WHERE kind = 'fee';

-- Closed is closed: what was issued keeps its content, and only moves along its states.
CREATE FUNCTION invoices_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.state <> 'draft' THEN RAISE EXCEPTION 'invoice % is issued and cannot be deleted', OLD.id; END IF;
        RETURN OLD;
    END IF;
    IF (OLD.state, NEW.state) NOT IN (('draft', 'draft'), ('draft', 'issued'), ('issued', 'issued'), ('issued', 'paid'), ('issued', 'void'),
        ('issued', 'uncollectible'), ('uncollectible', 'uncollectible'), ('uncollectible', 'paid'), ('uncollectible', 'void'),
        ('paid', 'paid'), ('void', 'void')) THEN
        RAISE EXCEPTION 'invoice % cannot go from % to %', OLD.id, OLD.state, NEW.state;
    END IF;
    IF OLD.state <> 'draft' AND
       (OLD.workspace_id, OLD.consumer_id, OLD.subscription_id, OLD.kind, OLD.sequence, OLD.period_start, OLD.period_end, OLD.number, OLD.currency,
        OLD.subtotal_minor, OLD.tax_minor, OLD.total_minor, OLD.seller, OLD.buyer, OLD.issued_at, OLD.due_at, OLD.carried)
       IS DISTINCT FROM
       (NEW.workspace_id, NEW.consumer_id, NEW.subscription_id, NEW.kind, NEW.sequence, NEW.period_start, NEW.period_end, NEW.number, NEW.currency,
        NEW.subtotal_minor, NEW.tax_minor, NEW.total_minor, NEW.seller, NEW.buyer, NEW.issued_at, NEW.due_at, NEW.carried) THEN
        RAISE EXCEPTION 'invoice % is issued and its content never changes', OLD.id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER invoices_guard BEFORE UPDATE OR DELETE ON invoices FOR EACH ROW EXECUTE FUNCTION invoices_guard();

CREATE FUNCTION invoice_lines_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    invoice text := CASE WHEN TG_OP = 'INSERT' THEN NEW.invoice_id ELSE OLD.invoice_id END;
BEGIN
    IF EXISTS (SELECT FROM invoices WHERE id = invoice AND state <> 'draft') THEN
        RAISE EXCEPTION 'invoice % is issued and its lines never change', invoice;
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER invoice_lines_guard BEFORE INSERT OR UPDATE OR DELETE ON invoice_lines FOR EACH ROW EXECUTE FUNCTION invoice_lines_guard();

-- What a close of a workspace's month did, for the checklist.
CREATE TABLE close_runs (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    report       jsonb
);
CREATE INDEX close_runs_workspace ON close_runs (workspace_id, period_start, id);
