-- The revenue ledger: double entry, derived from invoices and what becomes of them, never edited.

-- `key` names what a journal was derived from, so that deriving it again finds it there.
CREATE TABLE ledger_journals (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    key          text NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('accrual', 'issue', 'recognition', 'payment', 'write_off', 'void', 'credit_note', 'refund', 'dispute', 'balance')),
    -- By the workspace's calendar. A recognition is booked ahead, on the day it falls due: a balance is always as of a day.
    booked_on    date NOT NULL,
    invoice_id   text,
    consumer_id  text NOT NULL,
    description  text NOT NULL,
    recorded_at  timestamptz NOT NULL,
    CONSTRAINT ledger_journals_once UNIQUE (workspace_id, key)
);
CREATE INDEX ledger_journals_booked ON ledger_journals (workspace_id, booked_on, id);
CREATE INDEX ledger_journals_invoice ON ledger_journals (workspace_id, invoice_id);

CREATE TABLE ledger_postings (
    journal_id   bigint NOT NULL REFERENCES ledger_journals (id),
    position     integer NOT NULL,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    account      text NOT NULL CHECK (account IN
        ('receivable', 'cash', 'unbilled', 'deferred_revenue', 'revenue', 'tax_payable', 'customer_credit', 'bad_debt', 'disputed')),
    currency     text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    -- Debits are positive, credits negative.
    amount_minor bigint NOT NULL CHECK (amount_minor <> 0),
    -- Whose receivable or revenue it is.
    invoice_id   text,
    line_id      text,
    PRIMARY KEY (journal_id, position)
);
CREATE INDEX ledger_postings_account ON ledger_postings (workspace_id, account);

-- At the end of each transaction every journal it touched has postings, and they add up to nothing in each currency.
CREATE FUNCTION ledger_balances() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    journal bigint;
    off     record;
BEGIN
    IF TG_TABLE_NAME = 'ledger_journals' THEN journal := NEW.id; ELSE journal := NEW.journal_id; END IF;
    SELECT currency, sum(amount_minor) AS difference INTO off
    FROM ledger_postings WHERE journal_id = journal GROUP BY currency HAVING sum(amount_minor) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'journal % does not balance: % minor units of % too many', journal, off.difference, off.currency;
    END IF;
    IF NOT EXISTS (SELECT FROM ledger_postings WHERE journal_id = journal) THEN
        RAISE EXCEPTION 'journal % has no postings', journal;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_journals_balance AFTER INSERT ON ledger_journals
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_balances();
CREATE CONSTRAINT TRIGGER ledger_postings_balance AFTER INSERT ON ledger_postings
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_balances();

CREATE FUNCTION ledger_is_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is never edited; a mistake is corrected by another journal';
END $$;
CREATE TRIGGER ledger_journals_final BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_journals FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_final();
CREATE TRIGGER ledger_postings_final BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_postings FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_final();

-- Invoices whose journals are to be derived: written by whatever moves an invoice, in its transaction.
CREATE TABLE ledger_pending (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id text NOT NULL,
    invoice_id   text NOT NULL,
    -- One that cannot be derived waits here, with the reason, instead of holding up the others.
    next_at      timestamptz NOT NULL DEFAULT '-infinity',
    error        text
);
CREATE INDEX ledger_pending_workspace ON ledger_pending (workspace_id, id);

CREATE FUNCTION ledger_note_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger_pending (workspace_id, invoice_id) VALUES (NEW.workspace_id, NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER invoices_to_ledger AFTER INSERT OR UPDATE OF state ON invoices
    FOR EACH ROW WHEN (NEW.state <> 'draft') EXECUTE FUNCTION ledger_note_invoice();
INSERT INTO ledger_pending (workspace_id, invoice_id) SELECT workspace_id, id FROM invoices WHERE state <> 'draft' ORDER BY issued_at, id;
