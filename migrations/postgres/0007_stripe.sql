-- Billing's Stripe side: keys, customers, the outbox of requests, and the events received.

-- One Stripe account per workspace. Secrets are sealed with billing.encryption_key and bound to the workspace.
CREATE TABLE stripe_settings (
    workspace_id      text PRIMARY KEY REFERENCES workspaces (id),
    secret_key_sealed bytea NOT NULL,
    live              boolean NOT NULL,
    key_hint          text NOT NULL,
    -- The webhook endpoint we registered there, and the address it was registered with.
    endpoint_id       text,
    endpoint_url      text,
    -- Every event created before this instant was received or polled.
    polled_until      timestamptz,
    next_poll_at      timestamptz,
    updated_at        timestamptz NOT NULL
);

-- Several are valid while one is rolled over to the next.
CREATE TABLE stripe_webhook_secrets (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    fingerprint  bytea NOT NULL,
    sealed       bytea NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    PRIMARY KEY (workspace_id, fingerprint)
);

CREATE TABLE stripe_customers (
    workspace_id   text NOT NULL REFERENCES workspaces (id),
    consumer_id    text NOT NULL,
    stripe_id      text NOT NULL,
    -- What invoices are charged to, once the consumer has given one.
    payment_method text,
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, consumer_id),
    CONSTRAINT stripe_customers_once UNIQUE (workspace_id, stripe_id)
);

-- One row per invoice on its way to Stripe; a worker holds it by a lease.
CREATE TABLE stripe_pushes (
    invoice_id           text PRIMARY KEY REFERENCES invoices (id),
    workspace_id         text NOT NULL REFERENCES workspaces (id),
    state                text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'blocked')),
    stripe_id            text UNIQUE,
    -- How Stripe's totals differ from ours: the draft is then deleted and the push blocked.
    mismatch             text,
    attempts             integer NOT NULL DEFAULT 0,
    next_at              timestamptz NOT NULL,
    leased_until         timestamptz,
    -- Why it waits or is blocked.
    reason               text,
    payment_attempts     bigint NOT NULL DEFAULT 0,
    next_payment_attempt timestamptz,
    created_at           timestamptz NOT NULL,
    finished_at          timestamptz
);
CREATE INDEX stripe_pushes_due ON stripe_pushes (next_at) WHERE state = 'queued';
CREATE INDEX stripe_pushes_workspace ON stripe_pushes (workspace_id, state);

-- The outbox: each request's bytes and key, written before they are first sent and resent unchanged.
-- `subject` is the invoice or consumer it is about. A generation is a new key for the same bytes, taken only after
-- looking whether the older one had an effect.
CREATE TABLE stripe_requests (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    subject         text NOT NULL,
    step            text NOT NULL,
    generation      integer NOT NULL CHECK (generation > 0),
    method          text NOT NULL CHECK (method IN ('POST', 'DELETE')),
    path            text NOT NULL,
    body            bytea NOT NULL,
    idempotency_key text NOT NULL UNIQUE CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    state           text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'abandoned')),
    created_at      timestamptz NOT NULL,
    first_sent_at   timestamptz,
    sends           integer NOT NULL DEFAULT 0,
    -- The last answer: its status (absent when none came), request id, error, and the object it made.
    status          integer,
    request_id      text,
    error           text,
    object_id       text,
    answered_at     timestamptz,
    CONSTRAINT stripe_requests_generation UNIQUE (workspace_id, subject, step, generation)
);
CREATE UNIQUE INDEX stripe_requests_current ON stripe_requests (workspace_id, subject, step) WHERE state <> 'abandoned';

CREATE FUNCTION stripe_requests_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.method, OLD.path, OLD.body, OLD.idempotency_key) IS DISTINCT FROM (NEW.method, NEW.path, NEW.body, NEW.idempotency_key) THEN
        RAISE EXCEPTION 'the bytes of Stripe request % were stored to be resent unchanged', OLD.id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER stripe_requests_guard BEFORE UPDATE ON stripe_requests FOR EACH ROW EXECUTE FUNCTION stripe_requests_guard();

-- Events received by webhook or found by the poll: a note that an object changed, never the change itself.
CREATE TABLE stripe_events (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    id           text NOT NULL,
    kind         text NOT NULL,
    object_id    text NOT NULL,
    via          text NOT NULL CHECK (via IN ('webhook', 'poll')),
    occurred_at  timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    state        text NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'done', 'ignored', 'failed')),
    attempts     integer NOT NULL DEFAULT 0,
    next_at      timestamptz NOT NULL,
    leased_until timestamptz,
    error        text,
    PRIMARY KEY (workspace_id, id)
);
CREATE INDEX stripe_events_new ON stripe_events (next_at) WHERE state = 'new';
CREATE INDEX stripe_events_object ON stripe_events (workspace_id, object_id) WHERE state = 'new';

-- Payment methods given, each applied once: going back to an old return page does not bring an old card back.
CREATE TABLE stripe_setups (
    workspace_id   text NOT NULL REFERENCES workspaces (id),
    setup_intent   text NOT NULL,
    consumer_id    text NOT NULL,
    payment_method text NOT NULL,
    applied_at     timestamptz NOT NULL,
    PRIMARY KEY (workspace_id, setup_intent)
);
