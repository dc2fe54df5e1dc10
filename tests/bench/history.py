"""The rows about history: reading and purging it against Kinto's own plugin, and what it costs writes to keep it.

Entries are put in place by SQL, the same everywhere: ten for each record, a second apart, by a hundred users.
"""

import contextlib
import hashlib
import itertools
import pathlib
import sqlite3
import tempfile
import threading
import time

import servers
from kinto import AUTHORIZATION, Client, execute, kinto, postgres
from load import Cost, cpu_seconds, figure, measure

SIZES = (10_000, 100_000, 1_000_000)
CONNECTIONS = 8
FIRST = int(time.time()) * 1000 - (SIZES[-1] + 3600) * 1000  # the first entry's timestamp
SIGNED = {"Authorization": AUTHORIZATION}
HISTORY = "/buckets/bench/history"
# At most so many, so that few entries of the smallest history are gone after it.
PURGES = 300

# A record's entries lie as far apart as they can: 7919 is prime, and divides none of the numbers of records.
ENTRIES = """
WITH RECURSIVE numbers (i) AS (
    SELECT CAST({start} AS BIGINT) UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < {end}
), numbered AS (
    SELECT i, {start} / 10 + (i - {start}) * 7919 % (({end} - {start}) / 10) AS r FROM numbers
), named AS (
    SELECT {first} + i * 1000 AS stamp, md5(CAST(i AS TEXT)) AS id,
        'collection-' || CAST(r % 10 AS TEXT) AS cid, 'record-' || CAST(1000000 + r AS TEXT) AS rid,
        CASE WHEN i < {start} + ({end} - {start}) / 10 THEN 'create' ELSE 'update' END AS action,
        'basicauth:{zeros}' || CAST(100 + i % 100 AS TEXT) AS user_id
    FROM numbered
), entries AS (
    SELECT named.*, '/buckets/bench/collections/' || cid || '/records/' || rid AS uri, {date} AS date FROM named
), told AS (
    SELECT entries.*, '"date":"' || date || '","action":"' || action || '","resource_name":"record","uri":"' || uri
        || '","user_id":"' || user_id || '","collection_id":"' || cid || '","record_id":"' || rid
        || '","target":{{"data":{{"id":"' || rid || '","last_modified":' || CAST(stamp AS TEXT) || ',"title":"'
        || rid || '","text":"' || md5(rid) || id || '"}},"permissions":{{}}}}}}' AS json
    FROM entries
)
"""
POSTGRES_DATE = """to_char(to_timestamp(stamp / 1000), 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')"""

JOURNAL = """
INSERT INTO sidecar_entries (
    history, last_modified, id, uri, object_modified, resource_name, action, user_id, date, collection_id, record_id,
    reader_set, knows_readers, json
) {entries}
SELECT known.history, stamp, id, uri, stamp, 'record', action, user_id, date, cid, rid, known.reader_set, 1,
    '{{"id":"' || id || '","last_modified":' || CAST(stamp AS TEXT) || ',' || json
FROM told, (SELECT history, reader_set FROM sidecar_entries ORDER BY last_modified DESC LIMIT 1) AS known
"""
COUNT = "UPDATE sidecar_histories SET entries = (SELECT count(*) FROM sidecar_entries WHERE history = sidecar_histories.id)"

# Who owns the bucket reads all its entries; without permissions of their own, they are deleted a little faster.
PLUGIN = """
INSERT INTO objects (id, parent_id, resource_name, last_modified, data, deleted) {entries}
SELECT id, '/buckets/bench', 'history', to_timestamp(stamp / 1000) AT TIME ZONE 'UTC', CAST('{{' || json AS JSONB), FALSE
FROM told
"""

LUA = """
local n = -1
function request()
    n = n + 1
    return wrk.format("{method}", string.format({form}), nil, {body})
end
"""


def postmaster(folder):
    """The process above all others of the PostgreSQL in that folder."""
    return [int(pathlib.Path(folder, "data", "postmaster.pid").read_text().split()[0])]


def entries(start, end, date):
    """A query of the entries with these numbers."""
    return ENTRIES.format(start=start, end=end, first=FIRST, zeros="0" * 61, date=date)


class PostgresJournal:
    """A database for a sidecar's journal."""

    def __init__(self, folder):
        self.folder = folder
        self.name = "journal"
        self.url = f"postgres://kinto@localhost/{self.name}?host={folder}"
        execute(folder, "postgres", f"CREATE DATABASE {self.name}")

    def fill(self, start, end):
        insert = JOURNAL.format(entries=entries(start, end, POSTGRES_DATE))
        execute(self.folder, self.name, insert, COUNT, "VACUUM ANALYZE")


class SqliteJournal:
    """A file for a sidecar's journal."""

    def __init__(self, folder):
        self.path = pathlib.Path(folder, "journal.db")
        self.url = f"sqlite:{self.path}"

    def fill(self, start, end):
        def iso(stamp):
            return time.strftime("%Y-%m-%dT%H:%M:%S.000000+00:00", time.gmtime(stamp / 1000))

        with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as connection:
            connection.create_function("md5", 1, lambda text: hashlib.md5(text.encode()).hexdigest())
            connection.create_function("iso", 1, iso)
            connection.execute("PRAGMA cache_size = -500000")
            connection.execute(JOURNAL.format(entries=entries(start, end, "iso(stamp)")))
            connection.execute(COUNT)
            connection.commit()
            # What was put in place is not for the sidecar to tidy up.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class PluginHistory:
    """The database of a Kinto with the plugin."""

    def __init__(self, folder, port):
        self.folder = folder
        self.name = f"kinto_{port}"

    def fill(self, start, end):
        # It would give each a timestamp of its own.
        insert = PLUGIN.format(entries=entries(start, end, POSTGRES_DATE))
        trigger = ["ALTER TABLE objects DISABLE TRIGGER USER", "ALTER TABLE objects ENABLE TRIGGER USER"]
        execute(self.folder, self.name, trigger[0], insert, trigger[1], "VACUUM ANALYZE")


def reads(start, end):
    """What is asked of a history with `end` entries, the last of them from `start` on: (title, Lua for the n-th path)."""
    records = (end - start) // 10
    record = f"{start // 10} + (n * 617) % {records}"
    uri = "/buckets/bench/collections/collection-%d/records/record-%d"
    stamp = f"{FIRST} + (n * 617) % {max(end - 5000, 1)} * 1000"
    return [
        ("Newest 100", f'"/v1{HISTORY}?_limit=100"'),
        ("Filtered by `uri`, 10 entries", f'"/v1{HISTORY}?uri={uri}", ({record}) % 10, 1000000 + {record}'),
        (
            "Filtered by `user_id` and a time range, 50 entries",
            f'"/v1{HISTORY}?user_id=basicauth:%064d&_since=%d&_before=%d", 100 + n % 100, {stamp}, {stamp} + 5000000',
        ),
    ]


def purge(server, port, roots, beside, records, seconds):
    """Deletes the entries of one record after the other, each ten of them, and gives what a deletion cost.

    Ends after so many seconds, and so the unfinished are waited for and counted.
    """
    numbers, done, failures = iter(records), [], []
    end = time.perf_counter() + seconds

    def work():
        client = Client(port)
        for number in numbers:
            start = time.perf_counter()
            if start > end:
                return
            path = f"{HISTORY}?uri=/buckets/bench/collections/collection-{number % 10}/records/record-{1000000 + number}"
            # Of two deletions at the same moment, Kinto may ask for one again.
            status = 409
            while status == 409:
                status, _, content = client.ask("DELETE", path, **SIGNED)
            if status != 200 or content.count(b'"deleted"') != 10:
                failures.append(f"{path}: {status} {content[:300]}")
                return
            done.append((time.perf_counter() - start, len(content) / 1024))

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    before, before_beside, start = cpu_seconds(roots), cpu_seconds(beside), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    spent, spent_beside = cpu_seconds(roots) - before, cpu_seconds(beside) - before_beside
    if failures:
        raise RuntimeError(f"{server}: {failures[0]}")
    times = sorted(time for time, _ in done)
    return Cost(
        server=server,
        cpu_us=(spent + spent_beside) / len(done) * 1e6,
        per_second=len(done) / elapsed,
        p99_ms=times[len(times) * 99 // 100] * 1000,
        kilobytes=sum(size for _, size in done) / len(done),
        beside_us=spent_beside / len(done) * 1e6,
    )


def growth(title, costs, ours="sidecar, PostgreSQL"):
    """Markdown: what a request costs each server, by how many entries there are."""
    lines = [
        f"**{title}, {CONNECTIONS} connections; the Kinto behind and PostgreSQL count too**",
        "",
        "| entries | server | CPU µs per request | of that PostgreSQL | × sidecar | requests/s | × sidecar | p99 ms |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, compared in costs:
        base = next(cost for cost in compared if cost.server == ours)
        for cost in compared:
            ratios = cost.cpu_us / base.cpu_us if base.cpu_us else 0, cost.per_second / base.per_second
            numbers = [cost.cpu_us, cost.beside_us, ratios[0], cost.per_second, ratios[1], cost.p99_ms]
            lines.append(f"| {figure(size)} | {cost.server} | {' | '.join(map(figure, numbers))} |")
    return "\n".join([*lines, ""])


@contextlib.contextmanager
def keeping(database, folder):
    """Those who keep a history: (name, port, processes, processes of PostgreSQL, what fills it)."""
    server = postmaster(database)
    with contextlib.ExitStack() as stack:
        compared = []
        for name, journal in (("PostgreSQL", PostgresJournal(database)), ("SQLite", SqliteJournal(folder))):
            plain, plain_pids = stack.enter_context(kinto(False, database=database))
            flags = ["--history", "journal"]
            port, pids = stack.enter_context(servers.sidecar(plain, *flags, journal=journal.url))
            compared.append((f"sidecar, {name}", port, pids + plain_pids, server, journal))
        plugin, pids = stack.enter_context(kinto(False, database=database, history=True))
        compared.append(("Kinto's plugin", plugin, pids, server, PluginHistory(database, plugin)))
        for _, port, *_ in compared:
            Client(port).write("PUT", "/buckets/bench")
        yield compared


def row_7(seconds, most=SIZES[1]):
    """Reading and purging history."""
    results = {}
    with (
        postgres("-c", "fsync=on", "-c", "full_page_writes=on", "-c", "autovacuum=off") as database,
        tempfile.TemporaryDirectory() as folder,
        keeping(database, folder) as compared,
    ):
        for start, end in itertools.pairwise((0, *(size for size in SIZES if size <= most))):
            for *_, filled in compared:
                filled.fill(start, end)
            for title, form in reads(start, end):
                script = LUA.format(method="GET", form=form, body="nil")
                costs = [
                    measure(
                        name,
                        f"http://127.0.0.1:{port}/",
                        roots,
                        beside=beside,
                        headers=SIGNED,
                        script=script,
                        seconds=seconds,
                        connections=CONNECTIONS,
                    )
                    for name, port, roots, beside, _ in compared
                ]
                results.setdefault(title, []).append((end, costs))
            records = range(start // 10, start // 10 + PURGES)
            costs = [purge(*server[:4], records, seconds) for server in compared]
            results.setdefault("Deletion of 10 entries, by `uri`", []).append((end, costs))
    return [growth(title, costs) for title, costs in results.items()]


def row_8(seconds, rounds=5):
    """Single writes, with history and without."""
    body = '\'{"data":{"title":"A record","number":\' .. n .. \'}}\''
    form = '"/v1/buckets/bench/collections/written/records/record-%d", (n * 617) % 1000'
    options = {
        "headers": {**SIGNED, "Content-Type": "application/json"},
        "script": LUA.format(method="PUT", form=form, body=body),
        "seconds": seconds,
        "connections": 16,
    }
    with (
        postgres("-c", "fsync=on", "-c", "full_page_writes=on") as database,
        tempfile.TemporaryDirectory() as folder,
        contextlib.ExitStack() as stack,
    ):
        kept = [
            ("history off", "off", "sqlite::memory:", []),
            ("history on, SQLite", "journal", SqliteJournal(folder).url, []),
            ("history on, PostgreSQL", "journal", PostgresJournal(database).url, postmaster(database)),
        ]
        compared = []
        for name, mode, journal, database_pids in kept:
            # Each its own: what passes one of them would have to be found by the others.
            plain, plain_pids = stack.enter_context(kinto(False))
            port, pids = stack.enter_context(servers.sidecar(plain, "--history", mode, journal=journal))
            client = Client(port)
            client.write("PUT", "/buckets/bench")
            client.write("PUT", "/buckets/bench/collections/written")
            compared.append((name, f"http://127.0.0.1:{port}/", pids + database_pids, plain_pids))
        turns = [
            [measure(name, url, roots, beside=beside, **options) for name, url, roots, beside in compared]
            for _ in range(rounds)
        ]
    # What else the machine does only ever slows down.
    costs = [max(costs, key=lambda cost: cost.per_second) for costs in zip(*turns)]
    lines = [
        "**PUT of records, 16 connections, each sidecar before a Kinto of its own in memory; PostgreSQL counts too**",
        "",
        "| sidecar | requests/s | × history off | CPU µs per request | of that Kinto | p99 ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cost in costs:
        numbers = [cost.per_second, cost.per_second / costs[0].per_second, cost.cpu_us, cost.beside_us, cost.p99_ms]
        lines.append(f"| {cost.server} | {' | '.join(map(figure, numbers))} |")
    return ["\n".join([*lines, ""])]
