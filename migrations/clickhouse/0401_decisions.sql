-- Decisions by API, subscription and the feature of its plan, so that quotas see what every instance let pass.
ALTER TABLE decisions
    ADD COLUMN api LowCardinality(String),
    ADD COLUMN subscription String,
    ADD COLUMN feature LowCardinality(String),
    MODIFY ORDER BY (workspace, minute, source, consumer, outcome, batch, api, subscription, feature);
