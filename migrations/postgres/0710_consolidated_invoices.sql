-- One invoice for all subscriptions of a consumer whose periods end together, where it is so set.

ALTER TABLE consumer_billing ADD COLUMN consolidated boolean NOT NULL DEFAULT false;

-- Of a consolidated one, `subscription_id` and `period_start` are its first part's.
ALTER TABLE invoices ADD COLUMN consolidated boolean NOT NULL DEFAULT false;
-- Exactly one for a consumer, currency, end of periods, kind and sequence, however many workers close it.
CREATE UNIQUE INDEX invoices_consolidated_once ON invoices (workspace_id, consumer_id, currency, period_end, kind, sequence) WHERE consolidated;

-- The subscription that a line is of, where its invoice has several.
ALTER TABLE invoice_lines ADD COLUMN subscription_id text REFERENCES subscriptions (id);

-- Which period of which subscription an invoice is for: one part, or one for each subscription.
CREATE TABLE invoice_parts (
    invoice_id      text NOT NULL REFERENCES invoices (id) ON DELETE CASCADE,
    subscription_id text NOT NULL REFERENCES subscriptions (id),
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    kind            text NOT NULL,
    sequence        integer NOT NULL,
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    -- What its lines are called by on a consolidated invoice, as it was when it was drafted.
    label           text,
    PRIMARY KEY (invoice_id, subscription_id),
    -- A period of a subscription is invoiced once, by itself or with others.
    CONSTRAINT invoice_parts_once UNIQUE (subscription_id, period_start, kind, sequence)
);
CREATE INDEX invoice_parts_ended ON invoice_parts (subscription_id, period_end);

INSERT INTO invoice_parts (invoice_id, subscription_id, workspace_id, kind, sequence, period_start, period_end)
    SELECT id, subscription_id, workspace_id, kind, sequence, period_start, period_end FROM invoices;

CREATE FUNCTION invoices_have_a_part() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO invoice_parts (invoice_id, subscription_id, workspace_id, kind, sequence, period_start, period_end)
    VALUES (NEW.id, NEW.subscription_id, NEW.workspace_id, NEW.kind, CASE WHEN NEW.consolidated THEN 0 ELSE NEW.sequence END,
            NEW.period_start, NEW.period_end);
    RETURN NULL;
END $$;
CREATE TRIGGER invoices_have_a_part AFTER INSERT ON invoices FOR EACH ROW EXECUTE FUNCTION invoices_have_a_part();

CREATE FUNCTION invoice_parts_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM invoices WHERE id = CASE WHEN TG_OP = 'INSERT' THEN NEW.invoice_id ELSE OLD.invoice_id END AND state <> 'draft') THEN
        RAISE EXCEPTION 'the invoice is issued, and what it is for never changes';
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER invoice_parts_guard BEFORE INSERT OR UPDATE OR DELETE ON invoice_parts FOR EACH ROW EXECUTE FUNCTION invoice_parts_guard();

-- Two subscriptions on one invoice may have the same coupon.
ALTER TABLE invoice_discounts ADD COLUMN subscription_id text REFERENCES subscriptions (id);
UPDATE invoice_discounts d SET subscription_id = i.subscription_id FROM invoices i WHERE i.id = d.invoice_id;
ALTER TABLE invoice_discounts
    ALTER COLUMN subscription_id SET NOT NULL,
    DROP CONSTRAINT invoice_discounts_pkey,
    ADD PRIMARY KEY (invoice_id, coupon_id, subscription_id);
