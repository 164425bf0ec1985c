-- Log formats of an operator's own: how each field of an event is read from a record.
CREATE TABLE formats (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    name         text NOT NULL CHECK (name <> ''),
    definition   jsonb NOT NULL,
    PRIMARY KEY (workspace_id, name)
);
