-- Rejected events are kept as long as their workspace says; until then they can be searched and replayed.
ALTER TABLE dead_letters ADD COLUMN keep_until DateTime('UTC') DEFAULT toDateTime(received_at) + INTERVAL 90 DAY;
ALTER TABLE dead_letters MODIFY TTL keep_until;
