-- What an accounting system calls our accounts, taxes and items: one object per system, see billing/src/exports/codes.rs.
CREATE TABLE accounting_codes (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    system       text NOT NULL CHECK (system IN ('xero', 'quickbooks', 'netsuite')),
    codes        jsonb NOT NULL,
    updated_at   timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, system)
);
