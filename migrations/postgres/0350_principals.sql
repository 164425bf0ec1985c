-- Who may send, how much, and how it proves who it is.

-- bearer: the secret is sent with each call. signing: each call is signed with it (HMAC), so it is needed to check and is
-- kept sealed. certificate: a client certificate of a mutual TLS connection, whose DER form `hash` is the hash of.
-- Limits are per second and at once; none unless given. After a rotation the old one ends at expires_at.
ALTER TABLE tokens
    ADD COLUMN kind text NOT NULL DEFAULT 'bearer' CHECK (kind IN ('bearer', 'signing', 'certificate')),
    ADD COLUMN sealed bytea,
    ADD COLUMN requests_per_second integer CHECK (requests_per_second > 0),
    ADD COLUMN bytes_per_second integer CHECK (bytes_per_second >= 1024),
    ADD COLUMN in_flight integer CHECK (in_flight > 0),
    ADD COLUMN replaced_by text REFERENCES tokens (id),
    ADD CONSTRAINT tokens_sealed CHECK ((kind = 'signing') = (sealed IS NOT NULL));

-- Signatures that were taken, until they are too old to be taken again: a replay is refused by every instance.
CREATE TABLE seen_signatures (
    token_id text NOT NULL,
    mac      bytea NOT NULL,
    seen_at  timestamptz NOT NULL,
    PRIMARY KEY (token_id, mac)
);
CREATE INDEX seen_signatures_age ON seen_signatures (seen_at);

-- Where a source's topic is, when it is not in Farebox's own cluster, and how to sign in there.
CREATE TABLE source_kafka (
    source_id       text PRIMARY KEY REFERENCES sources (id) ON DELETE CASCADE,
    brokers         text NOT NULL CHECK (brokers <> ''),
    tls             boolean NOT NULL DEFAULT false,
    -- PEM; the system's authorities when absent.
    ca              text,
    sasl_mechanism  text CHECK (sasl_mechanism IN ('PLAIN', 'SCRAM-SHA-256', 'SCRAM-SHA-512')),
    sasl_username   text,
    password_sealed bytea,
    updated_at      timestamptz NOT NULL,
    CHECK ((sasl_mechanism IS NULL) = (sasl_username IS NULL) AND (sasl_mechanism IS NULL) = (password_sealed IS NULL))
);

-- What a workspace takes in: how far events may lie back and ahead, and how long rejected ones are kept.
CREATE TABLE intake_settings (
    workspace_id       text PRIMARY KEY REFERENCES workspaces (id),
    back_days          integer NOT NULL CHECK (back_days BETWEEN 1 AND 3660),
    ahead_minutes      integer NOT NULL CHECK (ahead_minutes BETWEEN 0 AND 1440),
    keep_rejected_days integer NOT NULL CHECK (keep_rejected_days BETWEEN 1 AND 3660)
);
