-- Raw events, deduplicated by identity within their minute; `version` decides (see metering/src/store.rs):
-- the highest revision, then the first received. Partitioned by month, so that late rows stay cheap.
CREATE TABLE events
(
    workspace      LowCardinality(String),
    id             String CODEC(ZSTD(1)),
    time           DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    received_at    DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    source         LowCardinality(String),
    type           LowCardinality(String),
    subject        String CODEC(ZSTD(1)),
    credential     String CODEC(ZSTD(1)),
    gateway        LowCardinality(String),
    country        LowCardinality(String),
    answered_by    LowCardinality(String),
    api            LowCardinality(String),
    api_version    LowCardinality(String),
    route          LowCardinality(String),
    method         LowCardinality(String),
    environment    LowCardinality(String),
    marker         LowCardinality(String),
    status         UInt16,
    latency_us     UInt32,
    request_bytes  UInt64,
    response_bytes UInt64,
    cached         Bool,
    properties     Map(LowCardinality(String), String),
    version        UInt64,
    is_deleted     UInt8,
    INDEX by_subject subject TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_credential credential TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_reception received_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(time)
ORDER BY (workspace, toStartOfMinute(time), id);

-- What is dirty is counted, not clocked: whatever changes the answer of a minute adds to its n, after the change.
CREATE TABLE touched
(
    workspace LowCardinality(String),
    minute    DateTime('UTC'),
    n         UInt64
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (workspace, minute);

-- Which generation of a rollup's rows is current: the one with the highest (n, gen). A minute is clean when its n
-- has caught up with `touched`.
CREATE TABLE rollup_gen
(
    rollup    LowCardinality(String),
    workspace LowCardinality(String),
    bucket    DateTime('UTC'),
    n         UInt64,
    gen       UInt64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(bucket)
ORDER BY (rollup, workspace, bucket, n, gen);

-- Billing: few groups a minute, all that prices and quotas by subscription need.
CREATE TABLE billing_minute
(
    workspace    LowCardinality(String),
    consumer     String CODEC(ZSTD(1)),
    minute       DateTime('UTC') CODEC(Delta, ZSTD(1)),
    subscription String CODEC(ZSTD(1)),
    plan         LowCardinality(String),
    api          LowCardinality(String),
    type         LowCardinality(String),
    status       UInt16,
    counted      Bool,
    reason       LowCardinality(String),
    events       UInt64,
    gen          UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (workspace, consumer, minute);

-- Routes: how each consumer uses the APIs, for prices by route, operations and insights.
CREATE TABLE routes_minute
(
    workspace      LowCardinality(String),
    consumer       String CODEC(ZSTD(1)),
    minute         DateTime('UTC') CODEC(Delta, ZSTD(1)),
    subscription   String CODEC(ZSTD(1)),
    plan           LowCardinality(String),
    credential     String CODEC(ZSTD(1)),
    environment    LowCardinality(String),
    api            LowCardinality(String),
    api_version    LowCardinality(String),
    route          LowCardinality(String),
    method         LowCardinality(String),
    type           LowCardinality(String),
    marker         LowCardinality(String),
    status         UInt16,
    counted        Bool,
    reason         LowCardinality(String),
    events         UInt64,
    latency_us     UInt64,
    request_bytes  UInt64,
    response_bytes UInt64,
    first          DateTime64(6, 'UTC'),
    last           DateTime64(6, 'UTC'),
    gen            UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (workspace, consumer, minute);

-- Timelines, copied from PostgreSQL. Intervals of one key never overlap (PostgreSQL sees to it).
CREATE TABLE link
(
    workspace   LowCardinality(String),
    kind        LowCardinality(String),
    key         String,
    valid_from  DateTime('UTC'),
    valid_to    DateTime('UTC'),
    consumer    String,
    environment LowCardinality(String),
    version     UInt64,
    is_deleted  UInt8
)
ENGINE = ReplacingMergeTree(version, is_deleted)
ORDER BY (workspace, kind, key, valid_from);

CREATE TABLE sub
(
    workspace    LowCardinality(String),
    consumer     String,
    product      LowCardinality(String),
    valid_from   DateTime('UTC'),
    valid_to     DateTime('UTC'),
    subscription String,
    plan         LowCardinality(String),
    plan_version String,
    version      UInt64,
    is_deleted   UInt8
)
ENGINE = ReplacingMergeTree(version, is_deleted)
ORDER BY (workspace, consumer, product, valid_from);

-- The product of an api, where it is another than `default`.
CREATE TABLE api_product
(
    workspace LowCardinality(String),
    api       String,
    product   LowCardinality(String),
    version   UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (workspace, api);

-- What arrived, by source and day of arrival: copies included, and how far each source has come.
CREATE TABLE intake
(
    workspace  LowCardinality(String),
    source     LowCardinality(String),
    day        Date,
    deliveries SimpleAggregateFunction(sum, UInt64),
    newest     SimpleAggregateFunction(max, DateTime64(6, 'UTC')),
    received   SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY (workspace, source, day);
