-- When payers of unpaid invoices are reminded. Without a row: never. (From when their calls are refused is a policy of access.)
CREATE TABLE dunning_policies (
    workspace_id      text PRIMARY KEY REFERENCES workspaces (id),
    -- Days after the due date, ascending.
    remind_after_days integer[] NOT NULL DEFAULT '{}',
    updated_at        timestamptz NOT NULL
);

-- A promise to pay, or a dispute under discussion: until then the consumer is neither reminded nor refused.
CREATE TABLE dunning_pauses (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    consumer_id  text NOT NULL,
    until        timestamptz NOT NULL,
    reason       text NOT NULL,
    PRIMARY KEY (workspace_id, consumer_id)
);

CREATE INDEX invoices_owed ON invoices (workspace_id, due_at) WHERE state IN ('issued', 'uncollectible') AND total_minor > 0 AND NOT carried;
