-- The checklist of a month's close, and how far it is closed.

-- Results of steps that take long: whether every invoice was derived again and compared.
CREATE TABLE close_steps (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    period_start timestamptz NOT NULL,
    step         text NOT NULL,
    done         boolean NOT NULL,
    detail       text NOT NULL,
    ran_at       timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, period_start, step)
);

-- A month that is closed for good: what comes late for it is no longer corrected.
CREATE TABLE hard_closes (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    closed_at    timestamptz NOT NULL,
    closed_by    text NOT NULL,
    PRIMARY KEY (workspace_id, period_start)
);
