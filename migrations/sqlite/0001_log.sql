-- The log, and beside it what must commit with an event or live as long as it: what was recorded is never changed.

-- The one row that fences, locks and numbers an append: it is raised where the epoch is still the writer's own.
-- `floor` is the highest number that a dropped bucket held: up to it events may be missing.
CREATE TABLE shard (
    shard INTEGER PRIMARY KEY CHECK (shard = 0),
    epoch INTEGER NOT NULL,
    head INTEGER NOT NULL,
    floor INTEGER NOT NULL
) STRICT;

INSERT INTO shard (shard, epoch, head, floor) VALUES (0, 0, 0, 0);

-- Events kept for ever. Rows stand in the order of appending; the one index serves reading a stream and refuses a
-- second writer.
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    schema INTEGER NOT NULL,
    event_id BLOB NOT NULL CHECK (length(event_id) = 16),
    at_ms INTEGER NOT NULL,
    data TEXT NOT NULL,
    meta TEXT,
    UNIQUE (stream, version)
) STRICT;

CREATE TRIGGER event_is_never_updated BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'an event is never updated');
END;

CREATE TRIGGER event_is_never_deleted BEFORE DELETE ON event
BEGIN
    SELECT RAISE(ABORT, 'an event is never deleted');
END;

-- Events kept as long as their bucket, numbered by the same head. No index by bucket: a bucket is a span of numbers,
-- and what little of its neighbours lies in it is passed over.
CREATE TABLE bucketed_event (
    seq INTEGER PRIMARY KEY,
    bucket INTEGER NOT NULL,
    stream TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    schema INTEGER NOT NULL,
    event_id BLOB NOT NULL CHECK (length(event_id) = 16),
    at_ms INTEGER NOT NULL,
    data TEXT NOT NULL,
    meta TEXT,
    UNIQUE (stream, version)
) STRICT;

-- The buckets that hold events. None stands before `first_seq`, which follows the dropping, nor behind `last_seq`.
CREATE TABLE bucket (
    bucket INTEGER PRIMARY KEY,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    dropping INTEGER NOT NULL CHECK (dropping IN (0, 1))
) STRICT;

CREATE TRIGGER bucketed_event_is_never_updated BEFORE UPDATE ON bucketed_event
BEGIN
    SELECT RAISE(ABORT, 'an event is never updated');
END;

CREATE TRIGGER bucketed_event_is_deleted_with_its_bucket BEFORE DELETE ON bucketed_event
WHEN NOT EXISTS (SELECT 1 FROM bucket WHERE bucket = OLD.bucket AND dropping = 1)
BEGIN
    SELECT RAISE(ABORT, 'an event is deleted only with its bucket');
END;

-- What may be erased stands apart from what may not. `bucket` is that of the event, and absent where that is kept.
-- Before the value, which is long: a row that is only passed over is not read to its end.
CREATE TABLE content (
    seq INTEGER PRIMARY KEY,
    bucket INTEGER,
    value BLOB NOT NULL
) STRICT;

-- `at_ms` is the time of the events that the claim came with; a claim without events has none. `bucket` is the one
-- with which the key becomes free again; absent for never.
CREATE TABLE claim (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    at_ms INTEGER,
    bucket INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX claim_by_bucket ON claim (bucket) WHERE bucket IS NOT NULL;

CREATE TABLE wakeup (
    key TEXT PRIMARY KEY,
    due_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX wakeup_by_due_time ON wakeup (due_at_ms, key);

-- From where on a bucketed stream is to be read. Its bucket, and every later one, holds what the stream still rests on.
CREATE TABLE period (
    stream TEXT PRIMARY KEY,
    bucket INTEGER NOT NULL,
    first_version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX period_by_bucket ON period (bucket, stream);

-- `seq` is the last number that the state rests on. A row is long and often replaced: it stands where it was put
-- first, and not in the order of the keys.
CREATE TABLE snapshot (
    key TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;

CREATE TABLE checkpoint (
    reader TEXT NOT NULL,
    shard INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (reader, shard)
) STRICT, WITHOUT ROWID;
