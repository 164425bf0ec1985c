-- Late usage and invoices within a period: what of a period is billed, and as what it was counted.

ALTER TABLE invoice_lines
    -- The first line that billed what this one corrects or continues.
    ADD COLUMN adjusts      text REFERENCES invoice_lines (id),
    -- What kind of line an adjustment would have been in its period.
    ADD COLUMN adjusts_kind text;
CREATE INDEX invoice_lines_adjusts ON invoice_lines (adjusts) WHERE adjusts IS NOT NULL;

-- The state of the events when a closed period was last counted: as long as it is the same, nothing came late.
CREATE TABLE counted_periods (
    subscription_id text NOT NULL REFERENCES subscriptions (id),
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    -- From when on events were counted: before the period where a price has a longer one.
    counted_from    timestamptz NOT NULL,
    state           text NOT NULL,
    PRIMARY KEY (subscription_id, period_start)
);
CREATE INDEX counted_periods_recent ON counted_periods (workspace_id, period_end);

ALTER TABLE billing_settings
    -- Periods are closed when a person says so, not by themselves.
    ADD COLUMN close_by_hand boolean NOT NULL DEFAULT false,
    -- What becomes of usage that arrives after its period was invoiced: a line on the next invoice, or an invoice of
    -- its own at once; and for how many days after the period's end it is looked for.
    ADD COLUMN late_usage text NOT NULL DEFAULT 'next_invoice' CHECK (late_usage IN ('next_invoice', 'own_invoice')),
    ADD COLUMN late_days  integer NOT NULL DEFAULT 60 CHECK (late_days BETWEEN 0 AND 400);
