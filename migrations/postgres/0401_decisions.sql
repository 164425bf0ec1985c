-- Decisions: what a provider chooses about them, and word to every instance when something that they rest on changes.

CREATE TABLE decision_policies (
    workspace_id text PRIMARY KEY REFERENCES workspaces (id),
    policy       jsonb NOT NULL,
    updated_at   timestamptz NOT NULL
);

-- Told when the transaction commits; words of one transaction that are alike arrive once.
CREATE FUNCTION tell_access() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('farebox_access', '');
    RETURN NULL;
END $$;

CREATE TRIGGER tell_access AFTER INSERT OR UPDATE OR DELETE ON decision_policies FOR EACH STATEMENT EXECUTE FUNCTION tell_access();
CREATE TRIGGER tell_access AFTER INSERT OR UPDATE OR DELETE ON credentials FOR EACH STATEMENT EXECUTE FUNCTION tell_access();
CREATE TRIGGER tell_access AFTER INSERT OR UPDATE OR DELETE ON subscription_phases FOR EACH STATEMENT EXECUTE FUNCTION tell_access();
CREATE TRIGGER tell_access AFTER INSERT OR UPDATE OR DELETE ON sources FOR EACH STATEMENT EXECUTE FUNCTION tell_access();
CREATE TRIGGER tell_access AFTER INSERT OR UPDATE OR DELETE ON apis FOR EACH STATEMENT EXECUTE FUNCTION tell_access();
CREATE TRIGGER tell_access AFTER INSERT OR UPDATE OR DELETE ON api_versions FOR EACH STATEMENT EXECUTE FUNCTION tell_access();
CREATE TRIGGER tell_access AFTER INSERT ON meters FOR EACH STATEMENT EXECUTE FUNCTION tell_access();
CREATE TRIGGER tell_access AFTER UPDATE OF clock_ahead_s, time_zone, portal_host ON workspaces FOR EACH STATEMENT EXECUTE FUNCTION tell_access();
-- Not on `last_used_at`, which changes each second.
CREATE TRIGGER tell_access AFTER INSERT OR DELETE OR UPDATE OF revoked_at, scopes, expires_at ON tokens FOR EACH STATEMENT EXECUTE FUNCTION tell_access();
-- Who owes, and who has paid.
CREATE TRIGGER tell_access AFTER UPDATE OF state ON invoices FOR EACH STATEMENT EXECUTE FUNCTION tell_access();
