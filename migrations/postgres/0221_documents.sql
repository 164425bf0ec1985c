-- Documents of issued invoices as they were first made: what was handed out once is handed out ever after.
CREATE TABLE invoice_documents (
    invoice_id   text NOT NULL REFERENCES invoices (id),
    workspace_id text NOT NULL REFERENCES workspaces (id),
    -- A void invoice says so across the page; what it was before stays.
    variant      text NOT NULL CHECK (variant IN ('issued', 'void')),
    medium       text NOT NULL CHECK (medium IN ('pdf', 'html', 'json', 'ubl')),
    bytes        bytea NOT NULL,
    made_at      timestamptz NOT NULL,
    PRIMARY KEY (invoice_id, variant, medium)
);

CREATE FUNCTION invoice_documents_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the document of invoice % was handed out and never changes', OLD.invoice_id;
END $$;
CREATE TRIGGER invoice_documents_guard BEFORE UPDATE OR DELETE ON invoice_documents
    FOR EACH ROW EXECUTE FUNCTION invoice_documents_guard();
