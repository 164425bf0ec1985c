-- Payments that a person recorded: by transfer, in cash, or however a provider without Stripe is paid.
CREATE TABLE payments (
    invoice_id   text PRIMARY KEY REFERENCES invoices (id),
    workspace_id text NOT NULL REFERENCES workspaces (id),
    currency     text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    paid_at      timestamptz NOT NULL,
    method       text NOT NULL,
    -- What the bank statement says.
    reference    text NOT NULL,
    recorded_by  text NOT NULL,
    recorded_at  timestamptz NOT NULL
);

-- Every invoice here against there, as it was when last compared.
CREATE TABLE reconciliations (
    workspace_id text PRIMARY KEY REFERENCES workspaces (id),
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    -- Why it ended early; what was compared before stays unchanged then.
    error        text,
    next_at      timestamptz NOT NULL,
    leased_until timestamptz
);
CREATE TABLE reconciliation_rows (
    workspace_id   text NOT NULL REFERENCES workspaces (id),
    position       integer NOT NULL,
    -- Absent when only one side has it.
    invoice_id     text,
    number         text,
    stripe_id      text,
    currency       text NOT NULL,
    our_state      text,
    our_minor      bigint,
    stripe_state   text,
    stripe_minor   bigint,
    stripe_paid    bigint,
    -- Absent when both agree.
    difference     text,
    PRIMARY KEY (workspace_id, position)
);
