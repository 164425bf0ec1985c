-- Gateways that check keys themselves: where they are administered, what of ours has still to be brought there, and how
-- far that has come.

CREATE TABLE provision_targets (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id     text NOT NULL REFERENCES workspaces (id),
    name             text NOT NULL CHECK (name <> ''),
    kind             text NOT NULL CHECK (kind IN ('apisix', 'kong')),
    -- Of its Admin API, without a trailing slash.
    url              text NOT NULL,
    -- Sealed with billing.encryption_key; none where the Admin API asks for none.
    admin_key_sealed bytea,
    -- What callers without a key may do: {limit, per}.
    anonymous        jsonb,
    created_at       timestamptz NOT NULL,
    -- When everything there was last compared with what should be there, and what stood in the way.
    reconciled_at    timestamptz,
    reconcile_at     timestamptz NOT NULL,
    error            text,
    CONSTRAINT provision_targets_name UNIQUE (workspace_id, name)
);

-- Consumers to bring to a target. Written by the triggers below in the transaction that changes one; a worker holds a row
-- by moving `next_at` ahead, and deletes it when nothing changed meanwhile.
CREATE TABLE provision_outbox (
    target_id   bigint NOT NULL REFERENCES provision_targets (id) ON DELETE CASCADE,
    consumer_id text NOT NULL,
    version     bigint NOT NULL DEFAULT 1,
    next_at     timestamptz NOT NULL,
    attempts    integer NOT NULL DEFAULT 0,
    error       text,
    PRIMARY KEY (target_id, consumer_id)
);
CREATE INDEX provision_outbox_due ON provision_outbox (next_at);

-- Keys are kept as hashes; a gateway that checks them itself needs the key. So an issued key waits here, sealed, until it
-- was delivered, and not a moment longer.
CREATE TABLE provision_secrets (
    target_id     bigint NOT NULL REFERENCES provision_targets (id) ON DELETE CASCADE,
    credential_id text NOT NULL,
    consumer_id   text NOT NULL,
    sealed        bytea NOT NULL,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (target_id, credential_id)
);

-- How far a consumer is there.
CREATE TABLE provision_state (
    target_id   bigint NOT NULL REFERENCES provision_targets (id) ON DELETE CASCADE,
    consumer_id text NOT NULL,
    synced_at   timestamptz NOT NULL,
    -- Keys that are there, and keys that cannot be brought there because only their hash is left.
    keys        integer NOT NULL,
    missing     integer NOT NULL,
    -- Writes that were needed since it was first brought there: more than changes here explain is drift.
    writes      bigint NOT NULL,
    PRIMARY KEY (target_id, consumer_id)
);

CREATE FUNCTION provision(workspace text, consumer text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO provision_outbox (target_id, consumer_id, next_at)
    SELECT id, consumer, now() FROM provision_targets WHERE workspace_id = workspace
    ON CONFLICT (target_id, consumer_id) DO UPDATE
    SET version = provision_outbox.version + 1, next_at = now(), attempts = 0, error = NULL;
$$;

CREATE FUNCTION provision_credential() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM provision(NEW.workspace_id, NEW.consumer_id);
    RETURN NULL;
END $$;
CREATE TRIGGER provision AFTER INSERT OR UPDATE ON credentials FOR EACH ROW EXECUTE FUNCTION provision_credential();

CREATE FUNCTION provision_phase() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    phase subscription_phases%ROWTYPE := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    PERFORM provision(phase.workspace_id, consumer_id) FROM subscriptions WHERE id = phase.subscription_id;
    RETURN NULL;
END $$;
CREATE TRIGGER provision AFTER INSERT OR UPDATE OR DELETE ON subscription_phases FOR EACH ROW EXECUTE FUNCTION provision_phase();

CREATE FUNCTION provision_consumer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM provision(NEW.workspace_id, NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER provision AFTER UPDATE OF name ON consumers FOR EACH ROW EXECUTE FUNCTION provision_consumer();
