-- Invoices are mailed to their payers from this instant on; NULL: not.
ALTER TABLE dunning_policies ADD COLUMN invoices_since timestamptz;

-- E-mails about invoices, each once: `key` names what it is about. A worker holds one by a lease while it sends.
CREATE TABLE invoice_mails (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    invoice_id   text NOT NULL REFERENCES invoices (id),
    kind         text NOT NULL CHECK (kind IN ('invoice', 'reminder')),
    -- Which day after the due date a reminder is for.
    day          integer NOT NULL DEFAULT 0,
    state        text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'failed', 'dropped')),
    attempts     integer NOT NULL DEFAULT 0,
    next_at      timestamptz NOT NULL,
    leased_until timestamptz,
    -- Why it waits, failed or was dropped.
    error        text,
    created_at   timestamptz NOT NULL,
    sent_at      timestamptz,
    CONSTRAINT invoice_mails_once UNIQUE (invoice_id, kind, day)
);
CREATE INDEX invoice_mails_due ON invoice_mails (next_at) WHERE state = 'queued';
CREATE INDEX invoice_mails_workspace ON invoice_mails (workspace_id, id);
CREATE INDEX invoices_issued ON invoices (workspace_id, issued_at) WHERE state <> 'draft';
