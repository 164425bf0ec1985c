-- What a backfill's preview said when it was committed.
ALTER TABLE backfills
    ADD COLUMN new_events    bigint,
    ADD COLUMN known_events  bigint;
