-- Rejected events, copied from the dead-letter topic. The body is base64. Of rows with one id the greatest version
-- stays: one that says it is resolved, else the one received first.
CREATE TABLE dead_letters (
    workspace LowCardinality(String),
    id String,
    received_at DateTime64(6, 'UTC'),
    source String,
    format LowCardinality(String),
    origin String,
    reason LowCardinality(String),
    detail String,
    event_source String,
    event_id String,
    fallback_id String,
    body String CODEC(ZSTD(1)),
    truncated Bool,
    resolved Bool,
    version UInt64
) ENGINE = ReplacingMergeTree(version) ORDER BY (workspace, id);

-- How many records had which verdict, by the minute in which it was given. For people; what is exact are the events and
-- the dead letters themselves.
CREATE TABLE verdicts (
    workspace LowCardinality(String),
    minute DateTime('UTC'),
    source String,
    format LowCardinality(String),
    verdict LowCardinality(String),
    n UInt64
) ENGINE = SummingMergeTree PARTITION BY toYYYYMM(minute) ORDER BY (workspace, minute, source, format, verdict);
