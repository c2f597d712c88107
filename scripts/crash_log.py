"""Reads the log past the program that wrote it: what scripts/crash_rounds.py believes. Only Python's standard library,
and `psql` for PostgreSQL."""

import glob
import json
import os
import shutil
import sqlite3
import subprocess


class Fault(Exception):
    """The log is not what it must be."""


class Sqlite:
    """Opens the file for each look, beside the running server."""

    def __init__(self, path):
        self.path = path

    def rows(self, sql, **values):
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def tables(self):
        return [name for name, in self.rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN ('event', 'bucketed_event')")]

    # The log of SQLite has one shard and does not say so in its events.
    shard = "0"

    def check_integrity(self):
        """None where pages, indexes and foreign keys agree."""
        for pragma in ("integrity_check", "foreign_key_check"):
            found = [row for row in self.rows(f"PRAGMA {pragma}") if row != ("ok",)]
            if found:
                raise Fault(f"{pragma}: {found[:5]}")


class Postgres:
    """Asks through `psql`, a process for each question."""

    shard = "shard"

    def __init__(self, url):
        self.url = url
        programs = sorted(glob.glob("/usr/lib/postgresql/*/bin/psql"))
        self.psql = shutil.which("psql") or programs[-1]

    def rows(self, sql, **values):
        for name, value in values.items():
            sql = sql.replace(f":{name}", str(int(value)))
        # One JSON array in a line: no text of ours can break it.
        sql = f"COPY (SELECT to_json(t) FROM ({sql}) t) TO STDOUT WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
        done = subprocess.run([self.psql, "--no-psqlrc", "--quiet", "--dbname", self.url, "--command", sql],
                              capture_output=True, text=True)
        if done.returncode:
            raise OSError(done.stderr.strip())
        return [tuple(json.loads(line).values()) for line in done.stdout.splitlines()]

    def tables(self):
        return [name for name, in self.rows("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename IN ('event', 'bucketed_event')")]

    def check_integrity(self):
        """What PostgreSQL has in place of SQLite's check is `pg_amcheck`, where it is installed."""
        programs = os.path.dirname(os.path.realpath(self.psql))
        amcheck = os.path.join(programs, "pg_amcheck")
        if os.path.exists(amcheck):
            done = subprocess.run([amcheck, "--install-missing", "--heapallindexed", "--maintenance-db", self.url, self.url],
                                  capture_output=True, text=True)
            if done.returncode:
                raise Fault(f"pg_amcheck: {done.stdout}{done.stderr}")


class Log:
    """Follows the log: every row is looked at once as it comes, and all of them again in `check_whole`."""

    def __init__(self, store):
        self.store = store
        self.heads = {}
        self.versions = {}
        # Idempotency key -> message id, from `message.published`.
        self.messages = {}
        # (stream, message) -> delivery, and the deliveries that ended well.
        self.scheduled = {}
        self.succeeded = set()
        self.events = 0

    def follow(self):
        """Reads what has come since, and raises at a hole, a second event of the same version, or a message that stands
        there twice."""
        shard, tables = self.store.shard, self.store.tables()
        behind = " AND ".join(["seq > :after"] if shard == "0" else
                              [f"(shard <> {one} OR seq > {after})" for one, after in self.heads.items()] or ["true"])
        part = "SELECT {0} AS shard, seq, stream, version, kind, data FROM {1} WHERE {2}"
        sql = " UNION ALL ".join(part.format(shard, table, behind) for table in tables) + " ORDER BY 1, 2"
        for shard, seq, stream, version, kind, data in self.store.rows(sql, after=self.heads.get(0, 0)):
            if seq != self.heads.get(shard, 0) + 1:
                raise Fault(f"{shard}-{seq} follows {shard}-{self.heads.get(shard, 0)}")
            if version != self.versions.get(stream, 0) + 1:
                raise Fault(f"{stream}: version {version} at {shard}-{seq} follows {self.versions.get(stream, 0)}")
            self.heads[shard], self.versions[stream] = seq, version
            self.events += 1
            self.note(stream, kind, data)
        for shard, head in self.store.rows("SELECT shard, head FROM shard"):
            # Read after the events: it may be ahead of them, never behind.
            if head < self.heads.get(shard, 0):
                raise Fault(f"shard {shard} has head {head} and an event at {self.heads[shard]}")

    def note(self, stream, kind, data):
        if kind == "message.published":
            event = json.loads(data)
            if event["idempotency_key"] in self.messages:
                raise Fault(f"{event['idempotency_key']} was recorded twice")
            self.messages[event["idempotency_key"]] = event["message"]
        elif kind == "delivery.scheduled":
            event = json.loads(data)
            if (stream, event["message"]) in self.scheduled:
                raise Fault(f"{stream} owes {event['message']} twice")
            self.scheduled[stream, event["message"]] = event["delivery"]
        elif kind == "delivery.succeeded":
            delivery = json.loads(data)["delivery"]
            if delivery in self.succeeded:
                raise Fault(f"{delivery} succeeded twice")
            self.succeeded.add(delivery)

    def check_whole(self):
        """Reads everything again from the start and finds the same."""
        again = Log(self.store)
        again.follow()
        for name in ("messages", "scheduled"):
            now, then = getattr(again, name), getattr(self, name)
            lost = [key for key, value in then.items() if now.get(key) != value]
            if lost:
                raise Fault(f"{len(lost)} {name} are gone or changed, as {lost[0]}")
        if not self.succeeded <= again.succeeded:
            raise Fault("outcomes are gone")
        self.store.check_integrity()
