-- Rows folded from the log, so that every list and lookup is an index search; all of it can be built again.

-- Ids are their 16 bytes. `position` is that of the event which made the row, as one number: the shard in the bits from
-- 48 on, below them the number in the shard. Lists of one tenant are ordered by it, newest first, and an index on a
-- column holds it too, as the row's key.

-- How far each projection has come in each shard. A reader that follows saves this with its rows.
CREATE TABLE checkpoint (
    projection TEXT NOT NULL,
    shard INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    -- Of the event at `seq`: tells a log that was put in the place of this one.
    event_id BLOB,
    -- Up to this number, nothing that is kept for a while has rows any more.
    floor INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (projection, shard)
) STRICT, WITHOUT ROWID;

-- Where a projection stopped, and why, until it goes on.
CREATE TABLE stop (
    projection TEXT NOT NULL,
    shard INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    class TEXT NOT NULL,
    event_type TEXT,
    reason TEXT NOT NULL,
    PRIMARY KEY (projection, shard)
) STRICT, WITHOUT ROWID;

-- Streams that a projection leaves out from the event at `seq` on, since that cannot be read. `unit` is what is left out
-- together, by the name of one of its streams.
CREATE TABLE held (
    projection TEXT NOT NULL,
    shard INTEGER NOT NULL,
    unit TEXT NOT NULL,
    seq INTEGER NOT NULL,
    -- Of that event.
    stream TEXT NOT NULL,
    reason TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (projection, shard, unit)
) STRICT, WITHOUT ROWID;

CREATE TABLE tenant (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    profile TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    -- Whether API keys may do what otherwise takes a person who has just proved themself.
    unattended_keys INTEGER NOT NULL,
    -- Since when nothing is accepted for it any more.
    erased_at_ms INTEGER
) STRICT;

-- Message data that somebody wanted gone: never what it was. `kind`: 0 of some messages, 1 of a subject, 2 of the tenant.
CREATE TABLE erasure (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    tenant BLOB NOT NULL,
    kind INTEGER NOT NULL,
    -- Those that were named, as JSON.
    messages TEXT NOT NULL,
    reason TEXT,
    message_count INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    webhooks INTEGER NOT NULL,
    secrets INTEGER NOT NULL,
    freed INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    completed_at_ms INTEGER
) STRICT;

CREATE TABLE api_key (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    tenant BLOB NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,
    revoked_at_ms INTEGER
) STRICT;

-- When each API key was last used, to the hour. Not folded from the log, and so forgotten with this file.
CREATE TABLE api_key_use (
    id BLOB PRIMARY KEY,
    used_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX api_key_by_tenant ON api_key (tenant);

-- People who log in here. `password` and `totp` are ids of sealed secrets.
CREATE TABLE user (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    tenant BLOB NOT NULL,
    name TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    password BLOB NOT NULL,
    totp BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL,
    disabled_at_ms INTEGER
) STRICT;

CREATE INDEX user_by_tenant ON user (tenant);

CREATE TABLE event_type (
    tenant BLOB NOT NULL,
    name TEXT NOT NULL,
    category TEXT NOT NULL,
    description TEXT NOT NULL,
    version TEXT NOT NULL,
    schema TEXT NOT NULL,
    example TEXT,
    -- Why it will not be published for ever; null: it will be.
    deprecation_reason TEXT,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

-- Only those that are not deleted.
CREATE TABLE webhook (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    tenant BLOB NOT NULL,
    profile TEXT NOT NULL,
    url TEXT NOT NULL,
    description TEXT,
    filters TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    secrets TEXT NOT NULL,
    circuit TEXT NOT NULL,
    -- 0 closed, 1 open, 2 half open.
    circuit_state INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    rate_limit_per_s INTEGER,
    ordered INTEGER NOT NULL,
    hold_until_ms INTEGER,
    -- Names and fingerprint of the custom headers.
    headers TEXT,
    -- Its own rules of trying again.
    retry_policy TEXT,
    -- How many addresses for notices there are, and their fingerprint.
    recipients TEXT
) STRICT;

CREATE INDEX webhook_by_tenant ON webhook (tenant);
CREATE INDEX webhook_by_enabled ON webhook (tenant, enabled);
CREATE INDEX webhook_by_circuit ON webhook (tenant, circuit_state);

-- Those that are deleted and can still be restored. `position` is that of the deletion, `webhook` the row as JSON.
CREATE TABLE deleted_webhook (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    tenant BLOB NOT NULL,
    created_position INTEGER NOT NULL,
    webhook TEXT NOT NULL,
    deleted_at_ms INTEGER NOT NULL,
    restorable_until_ms INTEGER NOT NULL
) STRICT;

CREATE INDEX deleted_webhook_by_tenant ON deleted_webhook (tenant);

CREATE TABLE message (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    tenant BLOB NOT NULL,
    event_type TEXT NOT NULL,
    occurred_at_ms INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    unstable INTEGER NOT NULL,
    idempotency_key TEXT,
    -- When its data was erased.
    erased_at_ms INTEGER
) STRICT;

CREATE INDEX message_by_tenant ON message (tenant);
CREATE INDEX message_by_event_type ON message (tenant, event_type);

-- `status`: 0 pending, 1 succeeded, 2 failed, 3 cancelled.
CREATE TABLE delivery (
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    tenant BLOB NOT NULL,
    subscription BLOB NOT NULL,
    message BLOB NOT NULL,
    message_position INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    status INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    completed_at_ms INTEGER,
    next_attempt_at_ms INTEGER,
    last_status INTEGER,
    last_latency_ms INTEGER,
    redelivery_of BLOB,
    sequence INTEGER,
    expiry TEXT
) STRICT;

-- A list of several states is merged from one range for each.
CREATE INDEX delivery_by_tenant ON delivery (tenant, status);
CREATE INDEX delivery_by_subscription ON delivery (subscription, status);
-- For proving that no number of a webhook is missing.
CREATE INDEX delivery_by_sequence ON delivery (subscription, sequence);
CREATE INDEX delivery_by_message ON delivery (message);
-- For forgetting the deliveries of messages that the log no longer holds.
CREATE INDEX delivery_by_message_position ON delivery (message_position);

CREATE TABLE attempt (
    delivery INTEGER NOT NULL,
    number INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    failure TEXT,
    detail TEXT,
    status INTEGER,
    preview TEXT,
    truncated INTEGER,
    retry_after_s INTEGER,
    body_bytes INTEGER,
    headers TEXT,
    class TEXT,
    revision INTEGER NOT NULL,
    PRIMARY KEY (delivery, number)
) STRICT, WITHOUT ROWID;

-- Beside `webhook`, since another projection writes it.
CREATE TABLE last_delivery (
    subscription BLOB PRIMARY KEY,
    -- Of the event that tells of it.
    position INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Counts, each the sum over rows of `delivery` and `attempt`: they go with the rows that they count. `subject` is a
-- subscription or a tenant, `grain` how many seconds of time a row stands for, from `start_ms` on; 0: of all time. What
-- `measure` counts: deliveries by `status` (0 to 3; of a time only ended ones), attempts that succeeded (8) and failed
-- (9), and from 16 on attempts by how long they took.
CREATE TABLE statistic (
    subject BLOB NOT NULL,
    grain INTEGER NOT NULL,
    start_ms INTEGER NOT NULL,
    measure INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (subject, grain, start_ms, measure)
) STRICT, WITHOUT ROWID;

-- For taking out what counts nothing any more.
CREATE INDEX statistic_empty ON statistic (count) WHERE count = 0;

CREATE TABLE audit (
    position INTEGER PRIMARY KEY,
    tenant BLOB NOT NULL,
    code TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    actor_kind TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    target TEXT NOT NULL,
    request TEXT,
    ip TEXT,
    acr TEXT,
    authenticated_at_ms INTEGER,
    changes TEXT NOT NULL
) STRICT;

CREATE INDEX audit_by_tenant ON audit (tenant);
CREATE INDEX audit_by_code ON audit (tenant, code);
CREATE INDEX audit_by_target ON audit (tenant, target);
CREATE INDEX audit_by_actor ON audit (tenant, actor_id);

-- Whose each subscription is, also after it was deleted: only its creation says so.
CREATE TABLE audit_subscription (
    id BLOB PRIMARY KEY,
    tenant BLOB NOT NULL
) STRICT, WITHOUT ROWID;
