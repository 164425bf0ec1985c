-- Alerts: who wants to know when usage or money reaches a threshold, when that was so, and the e-mails about it.

CREATE TABLE alerts (
    id            text PRIMARY KEY,
    workspace_id  text NOT NULL REFERENCES workspaces (id),
    name          text NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('allowance', 'usage', 'spend', 'anomaly')),
    meter         text CHECK ((meter IS NOT NULL) = (kind IN ('usage', 'anomaly'))),
    -- Percent of the allowance, units of the meter, an amount in major units, or how many times what is usual.
    threshold     numeric NOT NULL CHECK (threshold > 0),
    currency      text CHECK ((currency IS NOT NULL) = (kind = 'spend')),
    -- Hours with less are too few to judge.
    at_least      numeric CHECK ((at_least IS NOT NULL) = (kind = 'anomaly')),
    -- Whose subscriptions: everybody's unless narrowed.
    consumer_id   text,
    plan          text,
    -- Set by the consumer, who alone is told.
    own           boolean NOT NULL DEFAULT false,
    emails        text[] NOT NULL DEFAULT '{}',
    -- The consumer's own address is told.
    mail_consumer boolean NOT NULL DEFAULT false,
    -- Goes up when the threshold is raised: then it may be raised again in the same period.
    arming        integer NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    -- What was raised stays on record.
    removed_at    timestamptz,
    CHECK (NOT own OR consumer_id IS NOT NULL)
);
CREATE UNIQUE INDEX alerts_name_once ON alerts (workspace_id, name) WHERE NOT own AND removed_at IS NULL;
CREATE INDEX alerts_workspace ON alerts (workspace_id, id) WHERE removed_at IS NULL;

CREATE TABLE alert_firings (
    id              text PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces (id),
    alert_id        text NOT NULL REFERENCES alerts (id),
    arming          integer NOT NULL,
    consumer_id     text NOT NULL,
    subscription_id text NOT NULL REFERENCES subscriptions (id),
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    threshold       numeric NOT NULL,
    -- What it was when it was noticed, and what it is set against: the allowance, or what is usual.
    value           numeric NOT NULL,
    against         numeric,
    -- As a sentence.
    detail          text NOT NULL,
    fired_at        timestamptz NOT NULL,
    -- Once in a period, however many workers look and whatever crashes.
    CONSTRAINT alert_firings_once UNIQUE (alert_id, arming, subscription_id, period_start)
);
CREATE INDEX alert_firings_workspace ON alert_firings (workspace_id, id);
CREATE INDEX alert_firings_consumer ON alert_firings (workspace_id, consumer_id, id);

-- A worker holds one by a lease while it sends.
CREATE TABLE alert_mails (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces (id),
    firing_id    text NOT NULL REFERENCES alert_firings (id),
    address      text NOT NULL,
    subject      text NOT NULL,
    body         text NOT NULL,
    state        text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'failed')),
    attempts     integer NOT NULL DEFAULT 0,
    next_at      timestamptz NOT NULL,
    leased_until timestamptz,
    error        text,
    CONSTRAINT alert_mails_once UNIQUE (firing_id, address)
);
CREATE INDEX alert_mails_due ON alert_mails (next_at) WHERE state = 'queued';
