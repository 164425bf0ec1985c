-- A business as a database of the schema before 0700 has it: a subscription with a closed and an open month, a discount and
-- prepaid credits on the invoice, a credit note with its document, e-mails of both kinds, Stripe. None of it by today's columns.

INSERT INTO workspaces (id, name, display_name, currency, time_zone, test_mode, clock_ahead_s, created_at)
VALUES ('ws', 'former/live', 'Former', 'EUR', 'Europe/Berlin', false, 0, '2026-07-01Z');
INSERT INTO consumers (id, workspace_id, name, email, signed_up_at, country, created_at)
VALUES ('con', 'ws', 'initech', 'dev@initech.example', '2026-07-02Z', 'DE', '2026-07-02Z');
INSERT INTO consumer_billing (workspace_id, consumer_id, currency, tax_status, updated_at) VALUES ('ws', 'con', 'EUR', 'taxable', '2026-07-02Z');
INSERT INTO plans (id, workspace_id, name, product, created_at) VALUES ('plan', 'ws', 'growth', 'default', '2026-07-01Z');
INSERT INTO plan_versions (id, workspace_id, plan_id, version, definition, published_at) VALUES ('version', 'ws', 'plan', 1, '{}', '2026-07-01Z');
INSERT INTO subscriptions (id, workspace_id, consumer_id, product, currency, started_at, created_at, closed_until, closes_at)
VALUES ('sub', 'ws', 'con', 'default', 'EUR', '2026-07-31T22:00Z', '2026-07-31Z', '2026-08-31T22:00Z', '2026-09-30T22:00Z');
INSERT INTO subscription_phases (subscription_id, workspace_id, plan_version_id, from_at) VALUES ('sub', 'ws', 'version', '2026-07-31T22:00Z');
INSERT INTO coupons (id, workspace_id, code, name, share, created_at) VALUES ('coupon', 'ws', 'TENTH', 'A tenth', 0.1, '2026-07-01Z');

INSERT INTO invoices (id, workspace_id, consumer_id, subscription_id, kind, period_start, period_end, currency, subtotal_minor, tax_minor, total_minor,
                      collect, due_days, seller, buyer, created_at)
VALUES ('inv', 'ws', 'con', 'sub', 'regular', '2026-07-31T22:00Z', '2026-08-31T22:00Z', 'EUR', 8000, 1520, 9520, 'send_invoice', 14, '{}', '{}', '2026-09-01Z'),
       ('draft', 'ws', 'con', 'sub', 'regular', '2026-08-31T22:00Z', '2026-09-30T22:00Z', 'EUR', 1000, 190, 1190, 'send_invoice', 14, '{}', '{}', '2026-10-01Z');
INSERT INTO invoice_lines (id, workspace_id, invoice_id, position, kind, name, plan_version_id, period_start, period_end, quantity, amount_minor,
                           tax_name, tax_rate, tax_minor, explanation, discount_minor, credit_minor)
VALUES ('line', 'ws', 'inv', 0, 'fee', 'Platform', 'version', '2026-07-31T22:00Z', '2026-08-31T22:00Z', 1, 10000, 'VAT', 0.19, 1520, '1 × 100', 1000, 1000),
       ('open', 'ws', 'draft', 0, 'fee', 'Platform', 'version', '2026-08-31T22:00Z', '2026-09-30T22:00Z', 1, 1000, 'VAT', 0.19, 190, '1 × 10', 0, 0);
INSERT INTO invoice_discounts (invoice_id, coupon_id, workspace_id, amount_minor) VALUES ('inv', 'coupon', 'ws', 1000);
INSERT INTO credit_grants (id, workspace_id, consumer_id, name, kind, currency, amount_minor, balance_minor, effective_at, created_at)
VALUES ('grant', 'ws', 'con', 'Prepaid', 'paid', 'EUR', 3000, 0, '2026-08-01Z', '2026-08-01Z');
INSERT INTO credit_entries (workspace_id, grant_id, from_account, to_account, amount_minor, invoice_id, at)
VALUES ('ws', 'grant', 'granted', 'balance', 3000, NULL, '2026-08-01Z'), ('ws', 'grant', 'balance', 'used', 1000, 'inv', '2026-09-01Z');
UPDATE invoices SET state = 'issued', number = 'F-0001', issued_at = '2026-09-01Z', due_at = '2026-09-15Z' WHERE id = 'inv';

INSERT INTO credit_notes (id, workspace_id, invoice_id, consumer_id, reason, currency, subtotal_minor, tax_minor, total_minor, settles, created_by,
                          created_at, next_at)
VALUES ('note', 'ws', 'inv', 'con', 'correction', 'EUR', 100, 19, 119, 'open', 'test', '2026-09-05Z', '2026-09-05Z');
INSERT INTO credit_note_lines (credit_note_id, position, workspace_id, invoice_line_id, amount_minor, tax_minor) VALUES ('note', 0, 'ws', 'line', 100, 19);
UPDATE credit_notes SET state = 'issued', number = 'FCN-0001', issued_at = '2026-09-05Z' WHERE id = 'note';
INSERT INTO credit_note_documents (credit_note_id, workspace_id, medium, bytes, made_at) VALUES ('note', 'ws', 'pdf', 'as it was', '2026-09-05Z');

INSERT INTO invoice_mails (workspace_id, invoice_id, kind, day, state, attempts, next_at, created_at, sent_at)
VALUES ('ws', 'inv', 'invoice', 0, 'sent', 1, '2026-09-01Z', '2026-09-01Z', '2026-09-01T00:01Z'),
       ('ws', 'inv', 'reminder', 3, 'queued', 0, '2026-09-18Z', '2026-09-18Z', NULL);
INSERT INTO alerts (id, workspace_id, name, kind, threshold, currency, emails, created_at, updated_at)
VALUES ('alert', 'ws', 'Much', 'spend', 50, 'EUR', '{ops@acme.example}', '2026-07-01Z', '2026-07-01Z');
INSERT INTO alert_firings (id, workspace_id, alert_id, arming, consumer_id, subscription_id, period_start, period_end, threshold, value, detail, fired_at)
VALUES ('firing', 'ws', 'alert', 1, 'con', 'sub', '2026-07-31T22:00Z', '2026-08-31T22:00Z', 50, 60, 'More than 50', '2026-08-20Z');
INSERT INTO alert_mails (workspace_id, firing_id, address, subject, body, state, attempts, next_at, error)
VALUES ('ws', 'firing', 'ops@acme.example', 'Much', 'More than 50', 'failed', 5, '2026-08-20Z', 'refused');
INSERT INTO stripe_settings (workspace_id, secret_key_sealed, live, key_hint, updated_at) VALUES ('ws', 'sealed', false, '…42', '2026-07-01Z');
