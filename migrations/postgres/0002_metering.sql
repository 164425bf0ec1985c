-- Metering: who sends events, what is measured, and whose an event is at which time.

CREATE EXTENSION IF NOT EXISTS btree_gist;

-- A gateway or other sender.
CREATE TABLE sources (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    name         text NOT NULL CHECK (name <> ''),
    format       text NOT NULL,
    -- Read by ingest when given. A topic belongs to one source, so that its events have one workspace.
    kafka_topic  text,
    -- Delivers history: never holds `complete_until` back.
    backfill     boolean NOT NULL DEFAULT false,
    -- How late its events usually are, and after how long a silence it no longer holds the others back.
    lateness_s   integer NOT NULL DEFAULT 60 CHECK (lateness_s >= 0),
    idle_s       integer NOT NULL DEFAULT 900 CHECK (idle_s > 0),
    -- From where (CIDR) it may ask for decisions without a token.
    networks     text[] NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL,
    CONSTRAINT sources_name UNIQUE (workspace_id, name),
    CONSTRAINT sources_kafka_topic UNIQUE (kafka_topic)
);

CREATE TABLE apis (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    name         text NOT NULL CHECK (name <> ''),
    product      text NOT NULL DEFAULT 'default',
    created_at   timestamptz NOT NULL,
    CONSTRAINT apis_name UNIQUE (workspace_id, name)
);

CREATE TABLE api_versions (
    api_id     text NOT NULL REFERENCES apis (id) ON DELETE CASCADE,
    name       text NOT NULL CHECK (name <> ''),
    deprecated date,
    sunset     date,
    PRIMARY KEY (api_id, name)
);

-- A changed definition is a new version; the highest is in force. `calls` and `requests` exist everywhere unwritten.
CREATE TABLE meters (
    id           text NOT NULL,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    name         text NOT NULL CHECK (name NOT IN ('', 'calls', 'requests')),
    version      integer NOT NULL CHECK (version > 0),
    definition   jsonb NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, name, version)
);

-- What is billable. Without a row the default rule is in force, as version 0.
CREATE TABLE counting_rules (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    version      integer NOT NULL CHECK (version > 0),
    rule         jsonb NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, version)
);

CREATE TABLE consumers (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    name         text NOT NULL CHECK (name <> ''),
    email        text,
    signed_up_at timestamptz NOT NULL,
    country      text CHECK (country ~ '^[A-Z]{2}$'),
    address      jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL,
    CONSTRAINT consumers_name UNIQUE (workspace_id, name)
);
CREATE INDEX consumers_email ON consumers (workspace_id, lower(email));

-- API keys of consumers. Only a hash is kept.
CREATE TABLE credentials (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    consumer_id  text NOT NULL REFERENCES consumers (id),
    name         text NOT NULL,
    hint         text NOT NULL,
    hash         bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    environment  text NOT NULL DEFAULT 'production',
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz
);
CREATE INDEX credentials_consumer ON credentials (consumer_id);
CREATE INDEX credentials_active ON credentials (workspace_id) WHERE revoked_at IS NULL;

-- Whose a subject or a credential is, when. [valid_from, valid_to) in whole minutes, so that no minute straddles a
-- change; without end when valid_to is null.
CREATE TABLE links (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    kind         text NOT NULL CHECK (kind IN ('subject', 'credential')),
    key          text NOT NULL CHECK (key <> ''),
    valid_from   timestamptz NOT NULL CHECK (extract(epoch FROM valid_from)::bigint % 60 = 0),
    valid_to     timestamptz CHECK (extract(epoch FROM valid_to)::bigint % 60 = 0),
    consumer_id  text NOT NULL REFERENCES consumers (id),
    environment  text NOT NULL DEFAULT '',
    PRIMARY KEY (workspace_id, kind, key, valid_from),
    CHECK (valid_from < valid_to),
    CONSTRAINT links_one_owner EXCLUDE USING gist
        (workspace_id WITH =, kind WITH =, key WITH =, tstzrange(valid_from, valid_to) WITH &&)
);
CREATE INDEX links_consumer ON links (consumer_id);

-- Which subscription and plan version is in force for a consumer and product, when. Written by billing through
-- `timelines::set_subscription_timeline`.
CREATE TABLE subscription_timeline (
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    consumer_id     text NOT NULL REFERENCES consumers (id),
    product         text NOT NULL,
    valid_from      timestamptz NOT NULL CHECK (extract(epoch FROM valid_from)::bigint % 60 = 0),
    valid_to        timestamptz CHECK (extract(epoch FROM valid_to)::bigint % 60 = 0),
    subscription_id text NOT NULL,
    plan_version_id text NOT NULL,
    plan            text NOT NULL,
    PRIMARY KEY (workspace_id, consumer_id, product, valid_from),
    CHECK (valid_from < valid_to),
    CONSTRAINT subscription_timeline_one_in_force EXCLUDE USING gist
        (workspace_id WITH =, consumer_id WITH =, product WITH =, tstzrange(valid_from, valid_to) WITH &&)
);
CREATE INDEX subscription_timeline_subscription ON subscription_timeline (subscription_id);

-- Changes of the timelines that ClickHouse does not have yet. The id is the version of the rows there.
CREATE TABLE timeline_outbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    change       jsonb NOT NULL,
    created_at   timestamptz NOT NULL
);

-- Makes every recomputation's generation unique among instances.
CREATE SEQUENCE rollup_generation;
