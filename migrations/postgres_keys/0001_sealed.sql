-- Sealed keys and secrets, in a schema apart from the log: a dump of the log holds none of them, and a role of its own may
-- keep them.
CREATE TABLE sealed (
    name TEXT COLLATE "C" PRIMARY KEY,
    value BYTEA NOT NULL
);
