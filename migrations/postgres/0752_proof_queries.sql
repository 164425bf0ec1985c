-- The query of a proof is the same for thousands of lines: it is kept once, by the SHA-256 of its text. A proof without
-- `query` has its own here.
CREATE TABLE proof_queries (
    id    text PRIMARY KEY,
    query text NOT NULL
);
CREATE FUNCTION proof_queries_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the query of a proof is sealed with the lines that were counted by it';
END $$;
CREATE TRIGGER proof_queries_guard BEFORE UPDATE OR DELETE ON proof_queries FOR EACH ROW EXECUTE FUNCTION proof_queries_guard();

ALTER TABLE invoice_lines
    -- Without a foreign key, which would lock one row for every line; nothing ever deletes a query.
    ADD COLUMN proof_query text,
    -- A line is of its invoice's workspace.
    DROP CONSTRAINT invoice_lines_workspace_id_fkey;
