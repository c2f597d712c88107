-- The log, and beside it what must commit with an event or live as long as it: what was recorded is never changed.

-- One row for each shard. It fences, locks and numbers an append: it is raised where the epoch is still the writer's
-- own and the turn is the one that the writer saw. Each append rewrites the row: half of the page is left free so that
-- the new one stands beside the old, and the dead ones are cleared by their number, not by their share.
CREATE TABLE shard (
    shard INTEGER PRIMARY KEY CHECK (shard >= 0),
    epoch BIGINT NOT NULL,
    head BIGINT NOT NULL,
    turn BIGINT NOT NULL,
    -- Up to here numbers may be missing, since their buckets were dropped.
    floor BIGINT NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Names are compared byte by byte, whatever the database's language: a category is a range of names.
-- These events are kept for ever.
CREATE TABLE event (
    shard INTEGER NOT NULL,
    seq BIGINT NOT NULL,
    stream TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    schema INTEGER NOT NULL,
    event_id BYTEA NOT NULL CHECK (octet_length(event_id) = 16),
    at_ms BIGINT NOT NULL,
    data TEXT NOT NULL,
    meta TEXT,
    PRIMARY KEY (shard, seq),
    UNIQUE (stream, version)
);

-- The streams of a shard, for reading a category; one entry for each stream, not for each event.
CREATE INDEX event_first_of_stream ON event (shard, stream) WHERE version = 1;

CREATE FUNCTION refuse_to_change_an_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an event is never %', CASE TG_OP WHEN 'UPDATE' THEN 'updated' ELSE 'deleted' END;
END
$$;

CREATE TRIGGER event_is_never_updated BEFORE UPDATE ON event
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_an_event();

CREATE TRIGGER event_is_never_deleted BEFORE DELETE OR TRUNCATE ON event
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_an_event();

-- These go with their bucket: each has a partition of its own, which is made for the first event and dropped whole. The
-- bucket stands last in the keys, as what is searched for is mostly a stream or a place in a shard, in any bucket. That
-- no version stands in two buckets, the append sees to: it looks at the newest version first.
CREATE TABLE bucketed_event (
    bucket BIGINT NOT NULL,
    shard INTEGER NOT NULL,
    seq BIGINT NOT NULL,
    stream TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    schema INTEGER NOT NULL,
    event_id BYTEA NOT NULL CHECK (octet_length(event_id) = 16),
    at_ms BIGINT NOT NULL,
    data TEXT NOT NULL,
    meta TEXT,
    PRIMARY KEY (shard, seq, bucket),
    UNIQUE (stream, version, bucket)
) PARTITION BY LIST (bucket);

-- Whoever names a partition meets its own triggers, which are made with it.
CREATE TRIGGER event_is_never_updated BEFORE UPDATE ON bucketed_event
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_an_event();

CREATE TRIGGER event_is_never_deleted BEFORE DELETE OR TRUNCATE ON bucketed_event
FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_an_event();

-- What each bucket holds of each shard. Each append to it rewrites the row.
CREATE TABLE bucket (
    shard INTEGER NOT NULL,
    bucket BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,
    events BIGINT NOT NULL,
    PRIMARY KEY (shard, bucket)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Buckets that are being dropped, which takes several transactions: nothing is written to them any more.
CREATE TABLE dropping (
    bucket BIGINT PRIMARY KEY
);

-- From where on a stream is to be read, and which bucket it holds back thereby. The key is without the shard: a stream
-- cannot begin in two.
CREATE TABLE period (
    stream TEXT COLLATE "C" PRIMARY KEY,
    shard INTEGER NOT NULL,
    bucket BIGINT NOT NULL,
    first_version BIGINT NOT NULL
);

CREATE INDEX period_by_stream ON period (shard, stream);

CREATE INDEX period_by_bucket ON period (shard, bucket, stream);

-- `seq` is the last event that the state holds. Disposable at any time.
CREATE TABLE snapshot (
    shard INTEGER NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    fingerprint TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (shard, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

-- What may be erased stands apart from what may not. Without a foreign key: it would write to each event that it
-- checks, and both rows are inserted by the one statement. `bucket` is the event's.
CREATE TABLE content (
    shard INTEGER NOT NULL,
    seq BIGINT NOT NULL,
    value BYTEA NOT NULL,
    bucket BIGINT,
    PRIMARY KEY (shard, seq)
);

-- Else samples of what was published stand in the planner's statistics, and stay there when it is erased.
ALTER TABLE content ALTER COLUMN value SET STATISTICS 0;

CREATE INDEX content_by_bucket ON content (bucket) WHERE bucket IS NOT NULL;

-- `at_ms` is the time of the events that the claim came with; a claim without events has none. With `bucket` it becomes
-- free again.
CREATE TABLE claim (
    shard INTEGER NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    value TEXT NOT NULL,
    at_ms BIGINT,
    bucket BIGINT,
    PRIMARY KEY (shard, key)
);

CREATE INDEX claim_by_bucket ON claim (bucket) WHERE bucket IS NOT NULL;

-- Rows come and go with every delivery that waits.
CREATE TABLE wakeup (
    shard INTEGER NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    due_at_ms BIGINT NOT NULL,
    PRIMARY KEY (shard, key)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

CREATE INDEX wakeup_by_due_time ON wakeup (shard, due_at_ms, key);

-- `epoch` is the owner's who saved it: an earlier one does not overwrite it.
CREATE TABLE checkpoint (
    reader TEXT COLLATE "C" NOT NULL,
    shard INTEGER NOT NULL,
    seq BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    PRIMARY KEY (shard, reader)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
