-- What becomes of prepaid credits is booked, too: each entry of theirs is noted for the ledger.

ALTER TABLE ledger_pending
    ALTER COLUMN invoice_id DROP NOT NULL,
    ADD COLUMN entry_id bigint REFERENCES credit_entries (id),
    ADD CONSTRAINT ledger_pending_of_one CHECK ((invoice_id IS NULL) <> (entry_id IS NULL));

CREATE FUNCTION ledger_note_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger_pending (workspace_id, entry_id) VALUES (NEW.workspace_id, NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER credit_entries_to_ledger AFTER INSERT ON credit_entries FOR EACH ROW EXECUTE FUNCTION ledger_note_entry();
INSERT INTO ledger_pending (workspace_id, entry_id) SELECT workspace_id, id FROM credit_entries ORDER BY id;
