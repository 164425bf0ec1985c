-- A line that gives back a share of the period's cost, because the service was not as promised.
ALTER TABLE invoice_lines
    DROP CONSTRAINT invoice_lines_kind_check,
    ADD CONSTRAINT invoice_lines_kind_check
        CHECK (kind IN ('fee', 'usage', 'minimum', 'cap', 'carried', 'adjustment', 'credit', 'service_credit'));
