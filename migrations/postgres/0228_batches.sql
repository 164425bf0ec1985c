-- A month is closed in batches: what guards lines looks once at a statement instead of at each of its rows.

DROP TRIGGER invoice_lines_guard ON invoice_lines;
CREATE TRIGGER invoice_lines_guard BEFORE UPDATE OR DELETE ON invoice_lines FOR EACH ROW EXECUTE FUNCTION invoice_lines_guard();

CREATE FUNCTION invoice_lines_added() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    issued text;
BEGIN
    SELECT i.id INTO issued FROM (SELECT DISTINCT invoice_id FROM added) a JOIN invoices i ON i.id = a.invoice_id WHERE i.state <> 'draft' LIMIT 1;
    IF FOUND THEN RAISE EXCEPTION 'invoice % is issued and its lines never change', issued; END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER invoice_lines_added AFTER INSERT ON invoice_lines REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION invoice_lines_added();

CREATE INDEX credit_grants_consumer ON credit_grants (workspace_id, consumer_id);
CREATE INDEX subscription_coupons_subscription ON subscription_coupons (subscription_id) WHERE removed_at IS NULL;
