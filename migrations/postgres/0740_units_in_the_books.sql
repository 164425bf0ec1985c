-- Units of a meter that were bought are owed until they are used or expire, and are booked so; and what was earned when, by the
-- document or the purchase that it comes from, is asked in one place.

ALTER TABLE unit_grants
    -- What all units of the grant were bought for, without tax; none where nothing is known of it.
    ADD COLUMN price_minor    bigint CHECK (price_minor > 0),
    ADD COLUMN price_currency text,
    ADD CONSTRAINT unit_grants_priced CHECK ((price_minor IS NULL) = (price_currency IS NULL));

-- What of the price the entry moves.
ALTER TABLE unit_entries ADD COLUMN worth_minor bigint NOT NULL DEFAULT 0 CHECK (worth_minor >= 0);

-- The difference of what the balance is worth before and after it, so that all entries of a grant add up to its price.
CREATE FUNCTION unit_entries_worth() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    own unit_grants;
    after numeric;
BEGIN
    SELECT * INTO own FROM unit_grants WHERE id = NEW.grant_id FOR NO KEY UPDATE;
    IF own.price_minor IS NOT NULL THEN
        after := own.balance + CASE WHEN NEW.to_account = 'balance' THEN NEW.units ELSE -NEW.units END;
        NEW.worth_minor := abs(round(own.price_minor * after / own.units) - round(own.price_minor * own.balance / own.units));
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER unit_entries_worth BEFORE INSERT ON unit_entries FOR EACH ROW EXECUTE FUNCTION unit_entries_worth();

ALTER TABLE ledger_pending
    ADD COLUMN unit_entry_id bigint REFERENCES unit_entries (id),
    DROP CONSTRAINT ledger_pending_of_one,
    ADD CONSTRAINT ledger_pending_of_one CHECK (num_nonnulls(invoice_id, entry_id, unit_entry_id) = 1);

CREATE FUNCTION ledger_note_units() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger_pending (workspace_id, unit_entry_id) VALUES (NEW.workspace_id, NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER unit_entries_to_ledger AFTER INSERT ON unit_entries
    FOR EACH ROW WHEN (NEW.worth_minor > 0) EXECUTE FUNCTION ledger_note_units();

-- Revenue of what was issued or bought in a time, by when that was: invoices as they were issued; prepaid credits and units as
-- they were bought, where what is rolled over was bought when the first of its grants was.
CREATE FUNCTION revenue_by_origin(ws text, since timestamptz, until timestamptz)
RETURNS TABLE (at timestamptz, source text, document text, booked_on date, currency text, amount_minor bigint) LANGUAGE sql STABLE AS $$
    WITH RECURSIVE grants AS (
        SELECT id, created_at, rolled_from FROM credit_grants WHERE workspace_id = ws
        UNION ALL SELECT id, created_at, rolled_from FROM unit_grants WHERE workspace_id = ws
    ), bought AS (
        SELECT id, created_at FROM grants WHERE rolled_from IS NULL
        UNION ALL SELECT g.id, b.created_at FROM grants g JOIN bought b ON g.rolled_from = b.id
    ), entries AS (
        SELECT grant_id, 'credit_entry/' || id AS key FROM credit_entries WHERE workspace_id = ws
        UNION ALL SELECT grant_id, 'unit_entry/' || id FROM unit_entries WHERE workspace_id = ws AND worth_minor > 0
    )
    SELECT i.issued_at, 'invoice', i.id, j.booked_on, p.currency, p.amount_minor
    FROM invoices i JOIN ledger_postings p ON p.invoice_id = i.id AND p.account = 'revenue'
    JOIN ledger_journals j ON j.id = p.journal_id AND j.kind <> 'balance'
    WHERE i.workspace_id = ws AND i.issued_at >= since AND i.issued_at < until
    UNION ALL
    SELECT b.created_at, 'prepaid', b.id, j.booked_on, p.currency, p.amount_minor
    FROM bought b JOIN entries e ON e.grant_id = b.id
    JOIN ledger_journals j ON j.workspace_id = ws AND j.key = e.key
    JOIN ledger_postings p ON p.journal_id = j.id AND p.account = 'revenue'
    WHERE b.created_at >= since AND b.created_at < until
$$;
