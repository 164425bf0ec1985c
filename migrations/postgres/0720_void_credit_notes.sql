-- A credit note that should not have been made is voided while its invoice is open. Its number stays; what it did is taken back.

ALTER TABLE credit_notes
    DROP CONSTRAINT credit_notes_state_check,
    DROP CONSTRAINT credit_notes_check1,
    DROP CONSTRAINT credit_notes_check2,
    -- Asked for; the payment provider is being told, and may refuse.
    ADD COLUMN voiding_since timestamptz,
    ADD COLUMN voided_by     text,
    ADD COLUMN voided_at     timestamptz,
    ADD CONSTRAINT credit_notes_state CHECK (state IN ('pending', 'issued', 'refused', 'void')),
    ADD CONSTRAINT credit_notes_numbered CHECK ((state IN ('issued', 'void')) = (number IS NOT NULL)),
    ADD CONSTRAINT credit_notes_dated CHECK ((state IN ('issued', 'void')) = (issued_at IS NOT NULL)),
    ADD CONSTRAINT credit_notes_void CHECK ((state = 'void') = (voided_at IS NOT NULL)),
    -- Money that went back stays there.
    ADD CONSTRAINT credit_notes_void_open CHECK (voiding_since IS NULL OR settles = 'open');
CREATE INDEX credit_notes_voiding ON credit_notes (next_at) WHERE state = 'issued' AND voiding_since IS NOT NULL;

CREATE OR REPLACE FUNCTION credit_notes_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- Of an issued one, how its voiding stands.
    working text[] := CASE OLD.state
        WHEN 'issued' THEN ARRAY['leased_until', 'next_at', 'attempts', 'error', 'voiding_since', 'voided_by', 'voided_at', 'state']
        ELSE ARRAY['leased_until'] END;
BEGIN
    IF TG_OP = 'DELETE' THEN RAISE EXCEPTION 'credit note % is a document and cannot be deleted', OLD.id; END IF;
    IF OLD.state <> 'pending' AND (to_jsonb(OLD) - working) IS DISTINCT FROM (to_jsonb(NEW) - working) THEN
        RAISE EXCEPTION 'credit note % is % and never changes', OLD.id, OLD.state;
    END IF;
    IF (OLD.state, NEW.state) NOT IN (('pending', 'pending'), ('pending', 'issued'), ('pending', 'refused'), ('issued', 'issued'),
        ('issued', 'void'), ('refused', 'refused'), ('void', 'void')) THEN
        RAISE EXCEPTION 'credit note % cannot go from % to %', OLD.id, OLD.state, NEW.state;
    END IF;
    IF (OLD.workspace_id, OLD.invoice_id, OLD.consumer_id, OLD.currency, OLD.subtotal_minor, OLD.tax_minor, OLD.total_minor, OLD.settles)
       IS DISTINCT FROM
       (NEW.workspace_id, NEW.invoice_id, NEW.consumer_id, NEW.currency, NEW.subtotal_minor, NEW.tax_minor, NEW.total_minor, NEW.settles) THEN
        RAISE EXCEPTION 'what credit note % is about never changes', OLD.id;
    END IF;
    RETURN NEW;
END $$;

DROP TRIGGER credit_notes_to_ledger ON credit_notes;
CREATE TRIGGER credit_notes_to_ledger AFTER INSERT OR UPDATE OF state ON credit_notes
    FOR EACH ROW WHEN (NEW.state IN ('issued', 'void')) EXECUTE FUNCTION ledger_note_of_invoice();

-- A voided note says so across its page; what was handed out before stays what it was.
ALTER TABLE credit_note_documents
    ADD COLUMN variant text NOT NULL DEFAULT 'issued' CHECK (variant IN ('issued', 'void')),
    DROP CONSTRAINT credit_note_documents_pkey,
    ADD PRIMARY KEY (credit_note_id, variant, medium);
