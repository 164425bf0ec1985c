-- A topic belongs to one source of its cluster: two clusters may have topics of one name.

ALTER TABLE sources
    -- The brokers of the cluster that the topic is in, in order; empty: Farebox's own. Kept by the triggers below.
    ADD COLUMN kafka_cluster text NOT NULL DEFAULT '',
    DROP CONSTRAINT sources_kafka_topic;

CREATE FUNCTION cluster_of(brokers text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(broker, ',' ORDER BY broker) FROM (SELECT DISTINCT lower(trim(b)) AS broker FROM unnest(string_to_array(brokers, ',')) AS b) AS all_of_them
$$;

UPDATE sources SET kafka_cluster = cluster_of(brokers) FROM source_kafka WHERE source_kafka.source_id = sources.id;
ALTER TABLE sources ADD CONSTRAINT sources_kafka_topic UNIQUE (kafka_topic, kafka_cluster);

CREATE FUNCTION keep_kafka_cluster() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE sources SET kafka_cluster = '' WHERE id = OLD.source_id;
    ELSE
        UPDATE sources SET kafka_cluster = cluster_of(NEW.brokers) WHERE id = NEW.source_id;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER keep_kafka_cluster AFTER INSERT OR DELETE OR UPDATE OF brokers ON source_kafka FOR EACH ROW EXECUTE FUNCTION keep_kafka_cluster();
