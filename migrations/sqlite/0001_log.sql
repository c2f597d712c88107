-- The log, and beside it what must commit with an event or live as long as it: what was recorded is never changed.

-- The one row that fences, locks and numbers an append: it is raised where the epoch is still the writer's own.
CREATE TABLE shard (
    shard INTEGER PRIMARY KEY CHECK (shard = 0),
    epoch INTEGER NOT NULL,
    head INTEGER NOT NULL
) STRICT;

INSERT INTO shard (shard, epoch, head) VALUES (0, 0, 0);

-- Rows stand in the order of appending; the one index serves reading a stream and refuses a second writer.
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

-- What may be erased stands apart from what may not.
CREATE TABLE content (
    seq INTEGER PRIMARY KEY REFERENCES event (seq),
    value BLOB NOT NULL
) STRICT;

-- `at_ms` is the time of the events that the claim came with; a claim without events has none.
CREATE TABLE claim (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    at_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE wakeup (
    key TEXT PRIMARY KEY,
    due_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX wakeup_by_due_time ON wakeup (due_at_ms, key);

CREATE TABLE checkpoint (
    reader TEXT NOT NULL,
    shard INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (reader, shard)
) STRICT, WITHOUT ROWID;

CREATE TABLE secret (
    key TEXT PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;
