-- Each hour audited once: what was produced, stored, rolled up and queried, and whether all of it is equal.
CREATE TABLE pipeline_audits (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    equal        boolean NOT NULL,
    report       jsonb NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, period_start),
    CHECK (period_start < period_end)
);
