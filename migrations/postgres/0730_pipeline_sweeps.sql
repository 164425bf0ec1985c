-- Hours of which the whole pipeline was audited, of every workspace in one reading of Kafka.
CREATE TABLE pipeline_sweeps (
    period_end    timestamptz PRIMARY KEY,
    period_start  timestamptz NOT NULL,
    swept_at      timestamptz NOT NULL,
    CHECK (period_start < period_end)
);
