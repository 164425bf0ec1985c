-- Rollups by hour (UTC) and by day (of the workspace's calendar), filled from those of minutes. The bucket's start is
-- called `minute` here too, so that a question reads the same from each tier. `rollup` is the name in `rollup_gen`.
CREATE TABLE billing_hour
(
    rollup       LowCardinality(String),
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

CREATE TABLE billing_day
(
    rollup       LowCardinality(String),
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

CREATE TABLE routes_hour
(
    rollup         LowCardinality(String),
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

CREATE TABLE routes_day
(
    rollup         LowCardinality(String),
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

-- Who made calls that qualify (see metering/src/activity.rs) on which day: a tenth of the rows of `routes_day`.
CREATE TABLE activity_day
(
    rollup     LowCardinality(String),
    workspace  LowCardinality(String),
    consumer   String CODEC(ZSTD(1)),
    minute     DateTime('UTC') CODEC(Delta, ZSTD(1)),
    credential String CODEC(ZSTD(1)),
    events     UInt64,
    first      DateTime64(6, 'UTC'),
    last       DateTime64(6, 'UTC'),
    gen        UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (workspace, consumer, minute);

CREATE TABLE meter_hour
(
    rollup       LowCardinality(String),
    workspace    LowCardinality(String),
    meter        LowCardinality(String),
    consumer     String CODEC(ZSTD(1)),
    minute       DateTime('UTC') CODEC(Delta, ZSTD(1)),
    subscription String CODEC(ZSTD(1)),
    plan         LowCardinality(String),
    dims         Array(LowCardinality(String)),
    events       UInt64,
    errors       UInt64,
    total        Decimal(76, 12),
    least        Nullable(Decimal(38, 12)),
    most         Nullable(Decimal(38, 12)),
    uniques      AggregateFunction(uniqExact, UInt128),
    newest       AggregateFunction(argMax, Decimal(38, 12), Tuple(DateTime64(6, 'UTC'), String)),
    spread       AggregateFunction(quantileExact, Decimal(38, 12)),
    gen          UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (workspace, meter, consumer, minute);

CREATE TABLE meter_day
(
    rollup       LowCardinality(String),
    workspace    LowCardinality(String),
    meter        LowCardinality(String),
    consumer     String CODEC(ZSTD(1)),
    minute       DateTime('UTC') CODEC(Delta, ZSTD(1)),
    subscription String CODEC(ZSTD(1)),
    plan         LowCardinality(String),
    dims         Array(LowCardinality(String)),
    events       UInt64,
    errors       UInt64,
    total        Decimal(76, 12),
    least        Nullable(Decimal(38, 12)),
    most         Nullable(Decimal(38, 12)),
    uniques      AggregateFunction(uniqExact, UInt128),
    newest       AggregateFunction(argMax, Decimal(38, 12), Tuple(DateTime64(6, 'UTC'), String)),
    spread       AggregateFunction(quantileExact, Decimal(38, 12)),
    gen          UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (workspace, meter, consumer, minute);
