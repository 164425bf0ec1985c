-- What late usage takes back can be credited on the invoice that charged it.

ALTER TABLE billing_settings
    DROP CONSTRAINT billing_settings_late_usage_check,
    ADD CONSTRAINT billing_settings_late_usage_check CHECK (late_usage IN ('next_invoice', 'own_invoice', 'credit_note'));

ALTER TABLE credit_note_lines
    -- Of a correction of usage: as priced, and the quantity. The period then counts as billed without it.
    ADD COLUMN corrects_minor    bigint CHECK (corrects_minor > 0),
    ADD COLUMN corrects_quantity numeric,
    ADD CONSTRAINT credit_note_lines_correction CHECK ((corrects_minor IS NULL) = (corrects_quantity IS NULL));
