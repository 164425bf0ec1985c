-- Usage that reaches a threshold is invoiced together, too, where a consumer has one invoice for all: as often within a period as it
-- takes, so each such part has its invoice's own sequence. Of a regular invoice every part is the period's only one.

CREATE OR REPLACE FUNCTION invoices_have_a_part() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO invoice_parts (invoice_id, subscription_id, workspace_id, kind, sequence, period_start, period_end)
    VALUES (NEW.id, NEW.subscription_id, NEW.workspace_id, NEW.kind,
            CASE WHEN NEW.consolidated AND NEW.kind = 'regular' THEN 0 ELSE NEW.sequence END, NEW.period_start, NEW.period_end);
    RETURN NULL;
END $$;
