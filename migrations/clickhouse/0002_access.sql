-- The decision ledger: how many decisions there were, as each instance counted them. A batch that is written twice
-- replaces itself; read with FINAL, or sum over distinct rows.
CREATE TABLE decisions (
    workspace LowCardinality(String),
    minute DateTime('UTC'),
    source LowCardinality(String),
    consumer String,
    outcome LowCardinality(String),
    batch String,
    n UInt64
) ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(minute) ORDER BY (workspace, minute, source, consumer, outcome, batch);
