-- History brought in as a job: collected in a table of ClickHouse of its own, previewed, then committed minute by minute.
CREATE TABLE backfills (
    id            text PRIMARY KEY,
    workspace_id  text NOT NULL REFERENCES workspaces (id),
    source        text NOT NULL CHECK (source <> ''),
    format        text NOT NULL CHECK (format <> ''),
    -- What the file is known by (a hash of it), so that the same file gives the same events; or the topic.
    file          text,
    topic         text,
    state         text NOT NULL CHECK (state IN ('reading', 'open', 'committing', 'done', 'cancelled')),
    author        text NOT NULL,
    next_chunk    integer NOT NULL DEFAULT 0,
    accepted      bigint NOT NULL DEFAULT 0,
    rejected      bigint NOT NULL DEFAULT 0,
    minutes       integer NOT NULL DEFAULT 0,
    minutes_done  integer NOT NULL DEFAULT 0,
    -- Minutes before it are committed.
    position      timestamptz NOT NULL DEFAULT to_timestamp(0),
    created_at    timestamptz NOT NULL,
    committed_at  timestamptz,
    done_at       timestamptz,
    CHECK ((file IS NULL) <> (topic IS NULL))
);
CREATE INDEX backfills_workspace ON backfills (workspace_id, id);
CREATE INDEX backfills_open ON backfills (created_at) WHERE state IN ('reading', 'committing');
