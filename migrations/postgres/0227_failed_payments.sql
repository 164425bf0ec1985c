-- A payment that failed starts dunning by itself: mails, a refusal of calls after a time, and an end when it is paid.

ALTER TABLE dunning_policies
    -- Days after the first failure, ascending, on which the payer is asked for another way to pay.
    ADD COLUMN failed_mail_days integer[] NOT NULL DEFAULT '{0,3,7}',
    -- So many days after the first failure calls are refused; never when none.
    ADD COLUMN restrict_after_days integer CHECK (restrict_after_days >= 0);

-- One per invoice whose payment failed.
CREATE TABLE failed_payments (
    invoice_id   text PRIMARY KEY REFERENCES invoices (id),
    workspace_id text NOT NULL REFERENCES workspaces (id),
    consumer_id  text NOT NULL,
    -- By the workspace's clock.
    opened_at    timestamptz NOT NULL,
    attempts     bigint NOT NULL,
    -- When Stripe tries again by itself.
    next_attempt timestamptz,
    closed_at    timestamptz,
    -- Paid after all; or void, credited or given up.
    outcome      text CHECK (outcome IN ('recovered', 'ended')),
    CHECK ((closed_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX failed_payments_open ON failed_payments (workspace_id, consumer_id) WHERE closed_at IS NULL;

-- Whatever moves the invoice ends it.
CREATE FUNCTION failed_payments_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE failed_payments SET closed_at = coalesce(NEW.closed_at, now()), next_attempt = NULL,
           outcome = CASE WHEN NEW.state = 'paid' AND NEW.credited_minor < NEW.total_minor THEN 'recovered' ELSE 'ended' END
    WHERE invoice_id = NEW.id AND (closed_at IS NULL OR outcome = 'ended');
    RETURN NULL;
END $$;
CREATE TRIGGER failed_payments_end AFTER UPDATE OF state ON invoices
    FOR EACH ROW WHEN (NEW.state IN ('paid', 'void', 'uncollectible')) EXECUTE FUNCTION failed_payments_end();

ALTER TABLE invoice_mails
    DROP CONSTRAINT invoice_mails_kind_check,
    ADD CONSTRAINT invoice_mails_kind_check CHECK (kind IN ('invoice', 'reminder', 'payment_failed', 'recovered'));
