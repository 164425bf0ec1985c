-- A close writes hundreds of invoices in a statement; what is done for each row of it is most of its time.

-- Nothing asks by plan version. A planner without statistics took it for the way to a subscription's fees, and read it whole.
DROP INDEX invoice_lines_fees;
-- Every line locked the one row of its plan's version. Versions are never deleted.
ALTER TABLE invoice_lines DROP CONSTRAINT invoice_lines_plan_version_id_fkey;

CREATE OR REPLACE FUNCTION invoices_have_a_part() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO invoice_parts (invoice_id, subscription_id, workspace_id, kind, sequence, period_start, period_end)
    SELECT id, subscription_id, workspace_id, kind, CASE WHEN consolidated AND kind = 'regular' THEN 0 ELSE sequence END, period_start, period_end
    FROM added;
    RETURN NULL;
END $$;
DROP TRIGGER invoices_have_a_part ON invoices;
CREATE TRIGGER invoices_have_a_part AFTER INSERT ON invoices REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION invoices_have_a_part();

CREATE OR REPLACE FUNCTION invoice_parts_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM invoices WHERE id = OLD.invoice_id AND state <> 'draft') THEN
        RAISE EXCEPTION 'the invoice is issued, and what it is for never changes';
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END $$;
DROP TRIGGER invoice_parts_guard ON invoice_parts;
CREATE TRIGGER invoice_parts_guard BEFORE UPDATE OR DELETE ON invoice_parts FOR EACH ROW EXECUTE FUNCTION invoice_parts_guard();

CREATE FUNCTION invoice_parts_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added a JOIN invoices i ON i.id = a.invoice_id WHERE i.state <> 'draft') THEN
        RAISE EXCEPTION 'the invoice is issued, and what it is for never changes';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER invoice_parts_added AFTER INSERT ON invoice_parts REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION invoice_parts_added();
