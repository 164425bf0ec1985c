-- How long a workspace keeps raw events. Rollups outlive them; what they were is proven by `frozen_months`.
CREATE TABLE event_retention (
    workspace_id  text PRIMARY KEY REFERENCES workspaces (id),
    -- For ever where null.
    keep_days     integer CHECK (keep_days >= 62),
    -- Events before it are not taken any more; since when that is announced.
    closing_until timestamptz NOT NULL DEFAULT to_timestamp(0),
    closing_since timestamptz,
    -- Events before it are deleted: its buckets are frozen.
    frozen_until  timestamptz NOT NULL DEFAULT to_timestamp(0),
    CHECK (frozen_until <= closing_until)
);

-- The proof of a month whose events have expired: counts and hashes over their ids, by subscription.
CREATE TABLE frozen_months (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    month_start  timestamptz NOT NULL,
    events       bigint NOT NULL CHECK (events >= 0),
    -- Sum of SipHash-128 over (workspace, id), modulo 2^128, in hexadecimal.
    hash         text NOT NULL,
    proof        jsonb NOT NULL,
    frozen_at    timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, month_start)
);

-- Erasures of a consumer's personal data. `keys` (what is replaced by what) is emptied when it is done.
CREATE TABLE erasures (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    consumer_id  text NOT NULL REFERENCES consumers (id),
    author       text NOT NULL,
    keys         jsonb NOT NULL,
    report       jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL,
    done_at      timestamptz
);
CREATE INDEX erasures_consumer ON erasures (workspace_id, consumer_id);
CREATE INDEX erasures_open ON erasures (created_at) WHERE done_at IS NULL;
