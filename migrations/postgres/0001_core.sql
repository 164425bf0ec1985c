-- Workspaces and what every room shares: tokens, audit log, idempotency keys.

-- One environment of one provider (acme/live, acme/test): the boundary no query crosses.
CREATE TABLE workspaces (
    id            text PRIMARY KEY,
    name          text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*$'),
    display_name  text NOT NULL,
    currency      text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    time_zone     text NOT NULL,
    -- The portal is found by this host name; the default workspace answers where none matches.
    portal_host   text UNIQUE,
    is_default    boolean NOT NULL DEFAULT false,
    -- Test mode: the workspace's clock runs this far ahead of real time.
    test_mode     boolean NOT NULL DEFAULT false,
    clock_ahead_s bigint NOT NULL DEFAULT 0 CHECK (clock_ahead_s >= 0),
    seller        jsonb NOT NULL DEFAULT '{}',
    taxes         jsonb NOT NULL DEFAULT '[]',
    created_at    timestamptz NOT NULL,
    CHECK (test_mode OR clock_ahead_s = 0)
);
CREATE UNIQUE INDEX workspaces_one_default ON workspaces (is_default) WHERE is_default;

-- Programs' credentials towards Farebox itself. Only a hash is kept.
CREATE TABLE tokens (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    name         text NOT NULL,
    hint         text NOT NULL,
    hash         bytea NOT NULL UNIQUE,
    scopes       text[] NOT NULL CHECK (cardinality(scopes) > 0),
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX tokens_workspace ON tokens (workspace_id);

CREATE TABLE audit_log (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    at           timestamptz NOT NULL,
    actor        text NOT NULL,
    action       text NOT NULL,
    target       text NOT NULL,
    detail       jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_workspace ON audit_log (workspace_id, id);

-- The answer to a mutating request, replayed when the same key comes again.
CREATE TABLE idempotency_keys (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    key          text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    request_hash bytea NOT NULL,
    status       smallint,
    content_type text,
    body         bytea,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
