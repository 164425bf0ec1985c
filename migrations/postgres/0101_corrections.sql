-- Corrections of events by id or by filter: who, why, and whether all of it is done. What they did stands in ClickHouse,
-- each corrected row carrying the correction's `created_at` in its version, so that one that died half-way goes on.
CREATE TABLE corrections (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    action       text NOT NULL CHECK (action IN ('void', 'amend')),
    choice       jsonb NOT NULL,
    changes      jsonb NOT NULL,
    reason       text NOT NULL CHECK (reason <> ''),
    author       text NOT NULL,
    events       bigint NOT NULL CHECK (events >= 0),
    created_at   timestamptz NOT NULL,
    applied_at   timestamptz,
    CONSTRAINT corrections_stamp UNIQUE (workspace_id, created_at)
);
CREATE INDEX corrections_workspace ON corrections (workspace_id, id);
CREATE INDEX corrections_open ON corrections (created_at) WHERE applied_at IS NULL;
