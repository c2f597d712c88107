-- Sealed keys and secrets, in a file apart from the log: a copy of the log holds none of them, and what is destroyed here
-- stands nowhere else.
CREATE TABLE sealed (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
