-- One outbox of e-mails, whatever they are about: those about invoices and those about alerts were kept apart.

CREATE TABLE mails (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    kind         text NOT NULL CHECK (kind IN ('invoice', 'reminder', 'payment_failed', 'recovered', 'alert')),
    -- What it is about; one about an invoice is written when it is sent.
    invoice_id   text REFERENCES invoices (id),
    -- Which day after the due date, or after the first failure, a mail is for.
    day          integer NOT NULL DEFAULT 0,
    -- One about an alert is written when it is queued.
    firing_id    text REFERENCES alert_firings (id),
    address      text,
    subject      text,
    body         text,
    state        text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'failed', 'dropped')),
    attempts     integer NOT NULL DEFAULT 0,
    next_at      timestamptz NOT NULL,
    -- A worker holds it while it sends.
    leased_until timestamptz,
    -- Why it waits, failed or was dropped.
    error        text,
    created_at   timestamptz NOT NULL,
    sent_at      timestamptz,
    CONSTRAINT mails_invoice_once UNIQUE (invoice_id, kind, day),
    CONSTRAINT mails_firing_once UNIQUE (firing_id, address),
    CHECK ((kind = 'alert') = (invoice_id IS NULL)),
    CHECK ((kind = 'alert') = (firing_id IS NOT NULL AND address IS NOT NULL AND subject IS NOT NULL AND body IS NOT NULL))
);
CREATE INDEX mails_due ON mails (next_at) WHERE state = 'queued';
CREATE INDEX mails_workspace ON mails (workspace_id, id);

INSERT INTO mails (workspace_id, kind, invoice_id, day, state, attempts, next_at, leased_until, error, created_at, sent_at)
SELECT workspace_id, kind, invoice_id, day, state, attempts, next_at, leased_until, error, created_at, sent_at FROM invoice_mails ORDER BY id;
INSERT INTO mails (workspace_id, kind, firing_id, address, subject, body, state, attempts, next_at, leased_until, error, created_at)
SELECT workspace_id, 'alert', firing_id, address, subject, body, state, attempts, next_at, leased_until, error, next_at FROM alert_mails ORDER BY id;
DROP TABLE invoice_mails;
DROP TABLE alert_mails;
