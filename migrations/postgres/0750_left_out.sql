-- Calls of the period that are not billed, by reason: as they were counted when the invoice was drafted, and sealed with it.
ALTER TABLE invoices ADD COLUMN left_out jsonb NOT NULL DEFAULT '{}';

CREATE OR REPLACE FUNCTION invoices_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.state <> 'draft' THEN RAISE EXCEPTION 'invoice % is issued and cannot be deleted', OLD.id; END IF;
        RETURN OLD;
    END IF;
    IF (OLD.state, NEW.state) NOT IN (('draft', 'draft'), ('draft', 'issued'), ('issued', 'issued'), ('issued', 'paid'), ('issued', 'void'),
        ('issued', 'uncollectible'), ('uncollectible', 'uncollectible'), ('uncollectible', 'paid'), ('uncollectible', 'void'),
        ('paid', 'paid'), ('void', 'void')) THEN
        RAISE EXCEPTION 'invoice % cannot go from % to %', OLD.id, OLD.state, NEW.state;
    END IF;
    IF OLD.state <> 'draft' AND
       (OLD.workspace_id, OLD.consumer_id, OLD.subscription_id, OLD.kind, OLD.sequence, OLD.period_start, OLD.period_end, OLD.number, OLD.currency,
        OLD.subtotal_minor, OLD.tax_minor, OLD.total_minor, OLD.seller, OLD.buyer, OLD.issued_at, OLD.due_at, OLD.carried, OLD.tax_note,
        OLD.left_out)
       IS DISTINCT FROM
       (NEW.workspace_id, NEW.consumer_id, NEW.subscription_id, NEW.kind, NEW.sequence, NEW.period_start, NEW.period_end, NEW.number, NEW.currency,
        NEW.subtotal_minor, NEW.tax_minor, NEW.total_minor, NEW.seller, NEW.buyer, NEW.issued_at, NEW.due_at, NEW.carried, NEW.tax_note,
        NEW.left_out) THEN
        RAISE EXCEPTION 'invoice % is issued and its content never changes', OLD.id;
    END IF;
    RETURN NEW;
END $$;
