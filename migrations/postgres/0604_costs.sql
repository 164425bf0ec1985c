-- What a call costs the provider, by route: for the margin. In the workspace's currency.
CREATE TABLE call_costs (
    workspace_id text NOT NULL REFERENCES workspaces (id),
    -- The api's name; every api when empty.
    api          text NOT NULL,
    -- `GET /search`, or the beginning of one: `GET /orders*`.
    route        text NOT NULL CHECK (route <> ''),
    -- From when it holds, until a later one for the same route does.
    from_at      timestamptz NOT NULL CHECK (from_at = date_trunc('minute', from_at)),
    per_call     numeric NOT NULL CHECK (per_call >= 0),
    PRIMARY KEY (workspace_id, api, route, from_at)
);
