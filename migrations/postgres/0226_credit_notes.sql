-- Credit notes: what corrects an issued invoice is a document of its own. And money that goes back: refunds, disputes.

ALTER TABLE invoices
    -- What credit notes took off it before it was paid: so much less is collected.
    ADD COLUMN credited_minor bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT invoices_credited CHECK (credited_minor = 0 OR credited_minor BETWEEN 0 AND total_minor);

ALTER TABLE credit_grants
    DROP CONSTRAINT credit_grants_kind_check,
    -- Credited to the consumer's balance instead of being paid back.
    ADD CONSTRAINT credit_grants_kind_check CHECK (kind IN ('paid', 'promotional', 'included', 'rollover', 'balance'));

-- Pending while the payment provider is being told, which may refuse. Its number is taken when it is issued.
CREATE TABLE credit_notes (
    id             text PRIMARY KEY,
    workspace_id   text NOT NULL REFERENCES workspaces (id),
    invoice_id     text NOT NULL REFERENCES invoices (id),
    consumer_id    text NOT NULL,
    state          text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'issued', 'refused')),
    number         text CHECK (length(number) <= 26),
    reason         text NOT NULL CHECK (reason IN ('correction', 'duplicate', 'fraudulent', 'order_change', 'product_unsatisfactory')),
    -- For the buyer to read.
    memo           text,
    currency       text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    subtotal_minor bigint NOT NULL,
    tax_minor      bigint NOT NULL,
    total_minor    bigint NOT NULL CHECK (total_minor > 0),
    -- What it does: lets less be paid of an invoice that is open, or gives back of one that is paid, in one of three ways.
    settles        text NOT NULL CHECK (settles IN ('open', 'refund', 'balance', 'out_of_band')),
    created_by     text NOT NULL,
    created_at     timestamptz NOT NULL,
    issued_at      timestamptz,
    -- Why the payment provider refused it, or why it waits.
    error          text,
    stripe_id      text UNIQUE,
    attempts       integer NOT NULL DEFAULT 0,
    next_at        timestamptz NOT NULL,
    leased_until   timestamptz,
    CHECK (subtotal_minor + tax_minor = total_minor),
    CHECK ((state = 'issued') = (number IS NOT NULL)),
    CHECK ((state = 'issued') = (issued_at IS NOT NULL)),
    CONSTRAINT credit_notes_number_once UNIQUE (workspace_id, number)
);
CREATE INDEX credit_notes_workspace ON credit_notes (workspace_id, id);
CREATE INDEX credit_notes_invoice ON credit_notes (invoice_id);
-- One after the other: each takes from what the ones before it left.
CREATE UNIQUE INDEX credit_notes_one_pending ON credit_notes (invoice_id) WHERE state = 'pending';

CREATE TABLE credit_note_lines (
    credit_note_id  text NOT NULL REFERENCES credit_notes (id),
    position        integer NOT NULL,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    invoice_line_id text NOT NULL REFERENCES invoice_lines (id),
    -- Of what was left of the line after discounts and credits: with the tax where it is inclusive.
    amount_minor    bigint NOT NULL,
    tax_minor       bigint NOT NULL,
    PRIMARY KEY (credit_note_id, position),
    UNIQUE (credit_note_id, invoice_line_id)
);
CREATE INDEX credit_note_lines_line ON credit_note_lines (invoice_line_id);

CREATE FUNCTION credit_notes_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN RAISE EXCEPTION 'credit note % is a document and cannot be deleted', OLD.id; END IF;
    IF OLD.state <> 'pending' AND (to_jsonb(OLD) - 'leased_until') IS DISTINCT FROM (to_jsonb(NEW) - 'leased_until') THEN
        RAISE EXCEPTION 'credit note % is % and never changes', OLD.id, OLD.state;
    END IF;
    IF (OLD.workspace_id, OLD.invoice_id, OLD.consumer_id, OLD.currency, OLD.subtotal_minor, OLD.tax_minor, OLD.total_minor, OLD.settles)
       IS DISTINCT FROM
       (NEW.workspace_id, NEW.invoice_id, NEW.consumer_id, NEW.currency, NEW.subtotal_minor, NEW.tax_minor, NEW.total_minor, NEW.settles) THEN
        RAISE EXCEPTION 'what credit note % is about never changes', OLD.id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER credit_notes_guard BEFORE UPDATE OR DELETE ON credit_notes FOR EACH ROW EXECUTE FUNCTION credit_notes_guard();

CREATE FUNCTION credit_note_lines_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the lines of credit note % never change', OLD.credit_note_id;
END $$;
CREATE TRIGGER credit_note_lines_guard BEFORE UPDATE OR DELETE ON credit_note_lines FOR EACH ROW EXECUTE FUNCTION credit_note_lines_guard();

CREATE TABLE credit_note_documents (
    credit_note_id text NOT NULL REFERENCES credit_notes (id),
    workspace_id   text NOT NULL REFERENCES workspaces (id),
    medium         text NOT NULL CHECK (medium IN ('pdf', 'html', 'json', 'ubl')),
    bytes          bytea NOT NULL,
    made_at        timestamptz NOT NULL,
    PRIMARY KEY (credit_note_id, medium)
);
CREATE FUNCTION credit_note_documents_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the document of credit note % was handed out and never changes', OLD.credit_note_id;
END $$;
CREATE TRIGGER credit_note_documents_guard BEFORE UPDATE OR DELETE ON credit_note_documents
    FOR EACH ROW EXECUTE FUNCTION credit_note_documents_guard();

-- Payments that went back through Stripe, by a credit note or made in Stripe's dashboard.
CREATE TABLE refunds (
    workspace_id   text NOT NULL REFERENCES workspaces (id),
    stripe_id      text NOT NULL,
    invoice_id     text NOT NULL REFERENCES invoices (id),
    credit_note_id text REFERENCES credit_notes (id),
    currency       text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    amount_minor   bigint NOT NULL CHECK (amount_minor > 0),
    state          text NOT NULL CHECK (state IN ('pending', 'requires_action', 'succeeded', 'failed', 'canceled')),
    failure        text,
    created_at     timestamptz NOT NULL,
    succeeded_at   timestamptz,
    -- After it had succeeded: the money came back.
    failed_at      timestamptz,
    PRIMARY KEY (workspace_id, stripe_id)
);
CREATE INDEX refunds_invoice ON refunds (invoice_id);

-- Payments that the cardholder disputes. The money is with the bank until it is decided.
CREATE TABLE disputes (
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    stripe_id       text NOT NULL,
    invoice_id      text NOT NULL REFERENCES invoices (id),
    consumer_id     text NOT NULL,
    currency        text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    amount_minor    bigint NOT NULL CHECK (amount_minor > 0),
    reason          text NOT NULL,
    state           text NOT NULL CHECK (state IN ('warning_needs_response', 'warning_under_review', 'warning_closed', 'needs_response',
                                                   'under_review', 'won', 'lost', 'prevented')),
    respond_by      timestamptz,
    opened_at       timestamptz NOT NULL,
    -- When the bank took the money; a warning takes none.
    withdrawn_at    timestamptz,
    closed_at       timestamptz,
    PRIMARY KEY (workspace_id, stripe_id)
);
CREATE INDEX disputes_invoice ON disputes (invoice_id);
CREATE INDEX disputes_workspace ON disputes (workspace_id, opened_at);

-- Each of them moves the books of its invoice.
CREATE FUNCTION ledger_note_of_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger_pending (workspace_id, invoice_id) VALUES (NEW.workspace_id, NEW.invoice_id);
    RETURN NULL;
END $$;
CREATE TRIGGER credit_notes_to_ledger AFTER INSERT OR UPDATE OF state ON credit_notes
    FOR EACH ROW WHEN (NEW.state = 'issued') EXECUTE FUNCTION ledger_note_of_invoice();
CREATE TRIGGER refunds_to_ledger AFTER INSERT OR UPDATE ON refunds FOR EACH ROW EXECUTE FUNCTION ledger_note_of_invoice();
CREATE TRIGGER disputes_to_ledger AFTER INSERT OR UPDATE ON disputes FOR EACH ROW EXECUTE FUNCTION ledger_note_of_invoice();
