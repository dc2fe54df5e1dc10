"""The rows of the table of speeds: what is asked, of whom."""

import contextlib
import gzip
import statistics
import time

import feeds
import git_reader
import servers
from history import row_7, row_8
from kinto import Client, fill, kinto, postgres
from load import compare, figure, measure, resident_kilobytes, table
from relay import Relay

ENCODINGS = {"identity": {}, "gzip": {"Accept-Encoding": "gzip"}}
SMALL = (50, 180)  # records, filler: 14 KB
MEDIUM = (1_000, 60)  # 140 KB
LARGE = (10_000, 390)  # 5 MB


def path_of(collection, query="_expected=0"):
    return f"/v1/buckets/bench/collections/{collection}/changeset?{query}"


def url(port, path):
    return f"http://127.0.0.1:{port}{path}"


def fetch(port, path):
    """The bytes there, once everything is in place."""
    status, _, content = Client(port).ask("GET", path.removeprefix("/v1"))
    if status != 200:
        raise RuntimeError(f"{path}: {status} {content[:300]}")
    return content


@contextlib.contextmanager
def kintos(*collections, monitored=("/buckets/bench",)):
    """A plain Kinto with a sidecar in front, and one with the plugin, both with the same collections.

    Gives the sidecar's (port, processes) with its Kinto's processes, the plugin's, and the records' timestamps.
    """
    with kinto(False) as (plain, plain_pids), kinto(True, monitored) as (plugin, plugin_pids):
        stamps = {}
        for name, (count, filler) in collections:
            for port in (plain, plugin):
                stamps[name] = fill(port, name, count, filler)
        flags = ["--set", f"changes.resources={' '.join(monitored)}"]
        with servers.sidecar(plain, *flags) as (port, pids):
            yield (port, pids, plain_pids), (plugin, plugin_pids), stamps


def hits(title, path, collections, encodings, *, with_plugin=False, **options):
    """The same answer again and again: the sidecar, nginx, Varnish, bare hyper."""
    report = []
    with (
        kintos(*collections) as ((ours, pids, _), (plugin, plugin_pids), _),
        servers.nginx(plugin, caches=True) as (nginx, nginx_pids),
        servers.varnish(plugin) as (varnish, varnish_pids),
    ):
        content = fetch(ours, path)
        with servers.bare(content, gzip.compress(content, 6)) as (bare, bare_pids):
            compared = [
                ("sidecar", url(ours, path), pids),
                ("nginx, hits", url(nginx, path), nginx_pids),
                ("Varnish, hits", url(varnish, path), varnish_pids),
                ("bare hyper", url(bare, path), bare_pids),
            ]
            if with_plugin:
                compared.append(("Kinto with the plugin", url(plugin, path), plugin_pids))
            for name in encodings:
                costs = compare(compared, headers=ENCODINGS[name], **options)
                report.append(table(f"{title}, {name}", costs))
    return report


def row_1(seconds):
    """Cached changeset of 50 records."""
    title = "A cached changeset of 50 records, 64 connections"
    return hits(title, path_of("small"), [("small", SMALL)], ENCODINGS, seconds=seconds)


def row_2(seconds):
    """Cached changeset of 10 000 records."""
    title = "A cached changeset of 10 000 records, 64 connections"
    return hits(title, path_of("large"), [("large", LARGE)], ENCODINGS, seconds=seconds)


def row_3(seconds):
    """monitor/changes with 200 collections."""
    collections = [(f"collection-{number:03}", (1, 20)) for number in range(200)]
    path = "/v1/buckets/monitor/collections/changes/records"
    return hits("monitor/changes, 200 collections", path, collections, ENCODINGS, with_plugin=True, seconds=seconds)


# Each request has another of `count` numbers, all of them in turn; old and new mixed, so that however few a server gets to,
# they cost what all of them do.
LUA = """
local n = -1
function request()
    n = (n + 1) % {count}
    return wrk.format("GET", "{before}" .. string.format("%d", {first} + (n * 617) % {count} * {step}) .. "{after}")
end
"""


def misses(title, before, after, spread, seconds):
    """Each request another: the sidecar, and those for which each is a miss; what stands behind counts too.

    The number between `before` and `after` is a timestamp: `spread` says (how many, how far apart, how long the first is
    before the first record's), in milliseconds.
    """
    count, step, early = spread
    costs = []
    with kintos(("medium", MEDIUM)) as ((ours, pids, plain_pids), (plugin, plugin_pids), stamps):
        script = LUA.format(count=count, before=before, after=after, first=stamps["medium"][0] - early, step=step)
        # No warm-up: what a peer was asked before would be no miss.
        options = {"script": script, "seconds": seconds, "warm_up": 0}
        fetch(ours, path_of("medium"))
        costs.append(measure("sidecar", url(ours, "/"), pids + plain_pids, **options))
        with servers.nginx(plugin, caches=True) as (port, roots):
            costs.append(measure("nginx, misses", url(port, "/"), roots + plugin_pids, **options))
        with servers.varnish(plugin) as (port, roots):
            costs.append(measure("Varnish, misses", url(port, "/"), roots + plugin_pids, **options))
        costs.append(measure("Kinto with the plugin", url(plugin, "/"), plugin_pids, **options))
    return table(f"{title}; the Kinto behind counts too", costs)


def row_4(seconds):
    """Changesets with 1 000 different `_since`, and with a new `_expected` every time."""
    since = path_of("medium", "_expected=0&_since=%22")
    expected = path_of("medium", "_expected=")
    # Each a moment that has passed, so that what the sidecar has is new enough.
    passed = 100_000_000
    return [
        misses("1 000 different `_since`, of 1 000 records", since, "%22", (1000, 1000, 0), seconds),
        misses("A new `_expected` every time, 1 000 records", expected, "", (passed, 1, passed), seconds),
    ]


def row_5(_seconds, times=11):
    """One of 10 000 records changes."""
    lines = [
        "**One of 10 000 records changes: until the new changeset was read whole (median), Kinto on PostgreSQL**",
        "",
        "| server | ms | × sidecar | KB from Kinto | × sidecar |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    results = []
    # In memory, Kinto looks at all records to find the one.
    with (
        postgres() as database,
        kinto(False, database=database) as (plain, _),
        kinto(True, database=database) as (plugin, _),
    ):
        for port in (plain, plugin):
            fill(port, "large", *LARGE)
        with Relay(plain) as relay, servers.sidecar(relay.port) as (port, _):
            results.append(("sidecar, written through it", *after_a_write(port, port, relay, times)))
            results.append(("sidecar, written behind its back", *after_a_write(plain, port, relay, times)))
        with Relay(plugin) as relay, servers.nginx(relay.port, caches=True) as (port, _):
            results.append(("nginx, miss", *after_a_write(plugin, port, relay, times)))
        with Relay(plugin) as relay:
            results.append(("Kinto with the plugin", *after_a_write(plugin, relay.port, relay, times)))
    _, base_ms, base_kilobytes = results[0]
    for name, spent, kilobytes in results:
        ratios = figure(spent / base_ms), figure(kilobytes / base_kilobytes)
        lines.append(f"| {name} | {figure(spent)} | {ratios[0]} | {figure(kilobytes)} | {ratios[1]} |")
    return ["\n".join([*lines, ""])]


def after_a_write(write_port, read_port, relay, times):
    """Milliseconds from a write's acknowledgement to the changeset with it, and KB that were read from Kinto for it."""
    writer, reader = Client(write_port), Client(read_port)
    path = path_of("large", "_expected=").removeprefix("/v1")
    reader.ask("GET", f"{path}0")
    spent, kilobytes = [], []
    for number in range(times):
        title = f"Changed {read_port} {number}"
        body = {"data": {"title": title}}
        uri = f"/buckets/bench/collections/large/records/{number * 101:032x}"
        _, answer = writer.write("PATCH", uri, body)
        received, start = relay.received, time.perf_counter()
        status, _, content = reader.ask("GET", f"{path}%22{answer['data']['last_modified']}%22")
        spent.append((time.perf_counter() - start) * 1000)
        kilobytes.append((relay.received - received) / 1024)
        if status != 200 or title.encode() not in content:
            raise RuntimeError(f"the write is not in what port {read_port} answered: {status}")
    return statistics.median(spent), statistics.median(kilobytes)


def row_6(seconds):
    """Forwarding."""
    path = "/v1/buckets/bench/collections/small/records/x"
    with (
        servers.bare(b'{"data":[]}') as (stub, stub_pids),
        servers.sidecar(stub) as (ours, pids),
        servers.nginx(stub, caches=False) as (nginx, nginx_pids),
    ):
        compared = [("sidecar", url(ours, path), pids), ("nginx", url(nginx, path), nginx_pids)]
        costs = compare([*compared, ("the stub itself", url(stub, path), stub_pids)], seconds=seconds)
        memory = [(name, resident_kilobytes(roots)) for name, _, roots in compared]
    held = ", ".join(f"{name} {kilobytes / 1024:.1f} MiB" for name, kilobytes in memory)
    title = "Forwarding 11 bytes, 64 connections"
    return [table(title, costs), f"Memory after it: {held}.\n"]


ROWS = {1: row_1, 2: row_2, 3: row_3, 4: row_4, 5: row_5, 6: row_6, 7: row_7, 8: row_8, 9: feeds.row, 10: git_reader.row}
