-- Where a provider is told what happens, and what is still to be told: written by whatever happens, in its transaction.

CREATE TABLE webhooks (
    id              text PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    url             text NOT NULL,
    description     text NOT NULL,
    -- Types of events; `*` is all of them.
    events          text[] NOT NULL CHECK (cardinality(events) > 0),
    -- The secret that deliveries are signed with.
    sealed          bytea NOT NULL,
    -- After a rotation they are signed with both until then.
    previous_sealed bytea,
    previous_until  timestamptz,
    created_at      timestamptz NOT NULL,
    disabled_at     timestamptz,
    disabled_reason text,
    CHECK ((previous_sealed IS NULL) = (previous_until IS NULL)),
    CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL))
);
CREATE INDEX webhooks_workspace ON webhooks (workspace_id, id);

CREATE TABLE webhook_events (
    id           text PRIMARY KEY DEFAULT 'evt_' || replace(gen_random_uuid()::text, '-', ''),
    position     bigint GENERATED ALWAYS AS IDENTITY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    type         text NOT NULL,
    -- What it is about.
    subject      text NOT NULL,
    consumer_id  text,
    data         jsonb NOT NULL,
    at           timestamptz NOT NULL,
    -- What is sent, the same each time; made before it is first sent.
    body         text
);
-- Whatever says so looks at invoices again and again.
CREATE UNIQUE INDEX webhook_events_past_due_once ON webhook_events (subject) WHERE type = 'invoice.past_due';

-- A worker holds one by a lease while it sends.
CREATE TABLE webhook_deliveries (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    webhook_id   text NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id     text NOT NULL REFERENCES webhook_events (id),
    state        text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'delivered', 'failed')),
    attempts     integer NOT NULL DEFAULT 0,
    next_at      timestamptz NOT NULL DEFAULT '-infinity',
    leased_until timestamptz,
    -- How the last attempt went.
    tried_at     timestamptz,
    status       integer,
    took_ms      integer,
    error        text,
    CONSTRAINT webhook_deliveries_once UNIQUE (webhook_id, event_id)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, next_at, id) WHERE state = 'queued';
CREATE INDEX webhook_deliveries_of ON webhook_deliveries (webhook_id, id);
CREATE INDEX webhook_deliveries_event ON webhook_deliveries (event_id);

-- The event's id, or null when nobody wants to know: then nothing is written.
CREATE FUNCTION webhook_event(ws text, kind text, about text, consumer text, what jsonb, happened timestamptz) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    made text;
BEGIN
    IF NOT EXISTS (SELECT FROM webhooks w WHERE w.workspace_id = ws AND w.disabled_at IS NULL AND w.events && ARRAY[kind, '*']) THEN
        RETURN NULL;
    END IF;
    INSERT INTO webhook_events (workspace_id, type, subject, consumer_id, data, at) VALUES (ws, kind, about, consumer, what, happened)
    ON CONFLICT DO NOTHING RETURNING id INTO made;
    INSERT INTO webhook_deliveries (workspace_id, webhook_id, event_id)
    SELECT ws, w.id, made FROM webhooks w
    WHERE made IS NOT NULL AND w.workspace_id = ws AND w.disabled_at IS NULL AND w.events && ARRAY[kind, '*'];
    RETURN made;
END $$;

-- What an invoice comes to never changes; the state that it came to is kept here, since it may go on before it is told.
CREATE FUNCTION webhook_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM webhook_event(NEW.workspace_id, 'invoice.' || NEW.state, NEW.id, NEW.consumer_id,
        jsonb_build_object('state', NEW.state, 'paid_at', NEW.paid_at), coalesce(NEW.closed_at, NEW.paid_at, NEW.issued_at));
    RETURN NULL;
END $$;
CREATE TRIGGER invoices_to_webhooks AFTER UPDATE OF state ON invoices
    FOR EACH ROW WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION webhook_invoice();
CREATE TRIGGER invoices_to_webhooks_issued AFTER INSERT ON invoices
    FOR EACH ROW WHEN (NEW.state <> 'draft') EXECUTE FUNCTION webhook_invoice();

CREATE FUNCTION webhook_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM webhook_event(NEW.workspace_id, CASE WHEN NEW.revoked_at IS NULL THEN 'key.created' ELSE 'key.revoked' END, NEW.id, NEW.consumer_id,
        jsonb_build_object('id', NEW.id, 'consumer', NEW.consumer_id, 'name', NEW.name, 'hint', NEW.hint, 'environment', NEW.environment,
            'created_at', NEW.created_at, 'expires_at', NEW.expires_at, 'revoked_at', NEW.revoked_at),
        coalesce(NEW.revoked_at, NEW.created_at));
    RETURN NULL;
END $$;
CREATE TRIGGER keys_to_webhooks_made AFTER INSERT ON credentials FOR EACH ROW EXECUTE FUNCTION webhook_key();
CREATE TRIGGER keys_to_webhooks_revoked AFTER UPDATE OF revoked_at ON credentials
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION webhook_key();
