-- Meters that no common rollup can answer: one rollup for each version of a meter, `meter` being `name@version`. Of the
-- measures only those of the meter's aggregate are filled.
CREATE TABLE meter_minute
(
    workspace    LowCardinality(String),
    meter        LowCardinality(String),
    consumer     String CODEC(ZSTD(1)),
    minute       DateTime('UTC') CODEC(Delta, ZSTD(1)),
    subscription String CODEC(ZSTD(1)),
    plan         LowCardinality(String),
    -- Values of the meter's `group_by`, in its order.
    dims         Array(LowCardinality(String)),
    events       UInt64,
    -- Events whose value is none.
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

-- An event is found by its identity for corrections and for disputes.
ALTER TABLE events ADD INDEX by_id id TYPE bloom_filter(0.01) GRANULARITY 1;
