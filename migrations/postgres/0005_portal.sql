-- Portal: who signs in, how, and for how long.

-- A person of the provider (a member of the workspace) or of one of its consumers.
CREATE TABLE people (
    id              text PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    -- A consumer's person has one; a member of the workspace has none.
    consumer_id     text REFERENCES consumers (id),
    -- Lower case.
    email           text NOT NULL CHECK (email = lower(email) AND email <> ''),
    name            text NOT NULL CHECK (name <> ''),
    role            text NOT NULL,
    -- argon2id in PHC form; none until the first sign-in by link.
    password_hash   text,
    created_at      timestamptz NOT NULL,
    last_sign_in_at timestamptz,
    disabled_at     timestamptz,
    CHECK (CASE WHEN consumer_id IS NULL THEN role IN ('owner', 'admin', 'finance', 'product', 'support') ELSE role IN ('admin', 'member') END)
);
-- An address names one member and one consumer's person of a workspace: the two sign in on different pages.
CREATE UNIQUE INDEX people_member_email ON people (workspace_id, email) WHERE consumer_id IS NULL;
CREATE UNIQUE INDEX people_consumer_email ON people (workspace_id, email) WHERE consumer_id IS NOT NULL;
CREATE INDEX people_consumer ON people (consumer_id) WHERE consumer_id IS NOT NULL;

-- The cookie holds a random token; here is only its hash.
CREATE TABLE sessions (
    token_hash   bytea PRIMARY KEY CHECK (length(token_hash) = 32),
    person_id    text NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    created_at   timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    -- Absolute; not being seen for longer than the idle time ends it earlier.
    expires_at   timestamptz NOT NULL,
    address      text NOT NULL,
    browser      text NOT NULL
);
CREATE INDEX sessions_person ON sessions (person_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- A link that signs a person in: once, or, in demos, until it expires.
CREATE TABLE login_links (
    token_hash bytea PRIMARY KEY CHECK (length(token_hash) = 32),
    person_id  text NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    reusable   boolean NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
CREATE INDEX login_links_expiry ON login_links (expires_at);

-- Attempts that failed, and sign-ups, for throttling by account and by address. Rows older than a day are removed.
CREATE TABLE sign_in_attempts (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL,
    address text NOT NULL,
    at      timestamptz NOT NULL
);
CREATE INDEX sign_in_attempts_account ON sign_in_attempts (account, at);
CREATE INDEX sign_in_attempts_address ON sign_in_attempts (address, at);

-- What the provider tells its developers.
CREATE TABLE portal_settings (
    workspace_id text PRIMARY KEY REFERENCES workspaces (id),
    -- A GET that a new key may make at once, for the first steps.
    example_url  text CHECK (example_url ~ '^https?://')
);
