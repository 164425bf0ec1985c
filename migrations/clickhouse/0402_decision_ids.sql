-- The ids of decisions that let a known consumer's call pass, 32 hexadecimal digits each, one after the other: so that a
-- call whose log was lost can be named, and billed where the provider chooses to.
ALTER TABLE decisions ADD COLUMN ids String CODEC(ZSTD(3)) TTL minute + INTERVAL 90 DAY;
