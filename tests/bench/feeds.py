"""Many who follow one collection: what each of them holds of the server's memory, and when the last hears of a write.

The readers are sockets of this process, read when something is there: what is measured includes its own work.
"""

import contextlib
import pathlib
import select
import shutil
import socket
import subprocess
import time

import servers
from kinto import Client, fill, kinto
from load import cpu_seconds, figure, resident_kilobytes
from relay import Relay

HERE = pathlib.Path(__file__).resolve().parent
COUNTS = (100, 1_000, 10_000)
WRITES = 3
PATIENCE = 60

PEER = """
import express from "express";
import expressPouchDB from "express-pouchdb";
import PouchDB from "pouchdb";
import memory from "pouchdb-adapter-memory";
PouchDB.plugin(memory);
const application = express();
application.use("/", expressPouchDB(PouchDB.defaults({ adapter: "memory" }), { inMemoryConfig: true, logPath: "/dev/null" }));
application.listen(Number(process.argv[2]), "127.0.0.1", 16384);
"""


class Readers:
    """Connections that each ask for the same feed."""

    def __init__(self, port, path, count):
        self.poll = select.epoll()
        self.sockets = {}
        request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n".encode()
        end = time.monotonic() + PATIENCE
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), max(0.1, end - time.monotonic()))
            connection.sendall(request)
            connection.setblocking(False)
            self.sockets[connection.fileno()] = connection
            self.poll.register(connection, select.EPOLLIN)

    def wait_for(self, text, seconds=PATIENCE):
        """Until each was sent this; the moments at which that was seen."""
        seen, moments, end = set(), [], time.monotonic() + seconds
        while len(seen) < len(self.sockets):
            if time.monotonic() > end:
                raise RuntimeError(f"{len(seen)} of {len(self.sockets)} readers were told")
            for descriptor, _ in self.poll.poll(1):
                content = self.sockets[descriptor].recv(65536)
                if not content:
                    raise RuntimeError(f"the server left a reader; {len(seen)} were told")
                if text in content and descriptor not in seen:
                    seen.add(descriptor)
                    moments.append(time.perf_counter())
        return moments

    def close(self):
        for connection in self.sockets.values():
            connection.close()


def fan_out(port, path, count, pids, write, opening, row, reads=lambda: None):
    """What `count` readers cost: KiB of memory for each, and of some writes the best: milliseconds until half, 99 % and all of
    them were told, milliseconds of CPU, and how often the upstream was read."""
    before = resident_kilobytes(pids)
    readers = Readers(port, path, count)
    with contextlib.closing(readers):
        readers.wait_for(opening)
        memory = (resident_kilobytes(pids) - before) / count
        best = None
        for number in range(WRITES):
            time.sleep(0.5)
            asked, spent = reads(), cpu_seconds(pids)
            write(number)
            acknowledged = time.perf_counter()
            moments = sorted(moment - acknowledged for moment in readers.wait_for(row))
            spent = cpu_seconds(pids) - spent
            asked = None if asked is None else reads() - asked
            part = lambda share: max(0.0, moments[int(share * (count - 1))]) * 1000
            found = (part(0.5), part(0.99), part(1), spent * 1000, asked)
            best = min(best, found, key=lambda result: result[1]) if best else found
    return memory, *best


def of_sidecar():
    """A line of the table for each number of readers."""
    limits = [f"feeds.max_readers={2 * COUNTS[-1]}", f"feeds.max_readers_per_client={2 * COUNTS[-1]}"]
    connections = 4 * COUNTS[-1]
    limits += [f"sidecar.max_connections={connections}", f"sidecar.max_connections_per_client={connections}"]
    limits += ["sidecar.exclusive=true"]
    flags = [flag for limit in limits for flag in ("--set", limit)]
    with kinto(False) as (plain, _), Relay(plain) as relay:
        fill(plain, "feed", 50, 180)
        for count in COUNTS:
            with servers.sidecar(relay.port, *flags) as (port, pids):
                writer = Client(port)
                path = "/v1/buckets/bench/collections/feed/_changes?feed=eventsource&since=now"

                def write(number):
                    uri = f"/buckets/bench/collections/feed/records/{number:032x}"
                    writer.write("PATCH", uri, {"data": {"title": f"{count} {number}"}})

                yield "sidecar", count, fan_out(
                    port, path, count, pids, write, b"retry:", b"data: {", lambda: relay.received
                )


def of_peer():
    """The same of PouchDB's server, as far as it goes; `None` where it gives up."""
    clients = HERE.parent / "clients"
    npm = shutil.which("npm")
    if not npm:
        return
    folder = servers.TARGET / "pouchdb"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(clients / name, folder)
    if not (folder / "node_modules").exists():
        subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    (folder / "peer.mjs").write_text(PEER)
    for count in COUNTS:
        port = servers.free_port()
        with servers.running(["node", folder / "peer.mjs", port], port, stderr=subprocess.DEVNULL) as process:
            put = lambda path: subprocess.run(
                ["curl", "-sf", "-m", str(PATIENCE), "-X", "PUT", f"http://127.0.0.1:{port}{path}", "-d", "{}", "-H", "Content-Type: application/json"],
                stdout=subprocess.DEVNULL, check=True,
            )
            put("/db")
            try:
                # It has no eventsource.
                path = "/db/_changes?feed=continuous&since=now&heartbeat=1000"
                write = lambda number: put(f"/db/{number}")
                found = fan_out(port, path, count, [process.pid], write, b"200 OK", b'"seq":')
            except (OSError, RuntimeError, subprocess.CalledProcessError):
                found = None
        yield "pouchdb-server", count, found
        if found is None:
            return


def row(_seconds):
    """Readers of one collection's feed, and one write.

    What comes from Kinto is the write's own answer and one delta.
    """
    lines = [
        "| server | readers | KiB per reader | half told after ms | 99 % | all | CPU ms | KB from Kinto |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for found in (of_sidecar, of_peer):
        for server, count, figures in found():
            if figures is None:
                lines.append(f"| {server} | {count} | gives up | | | | | |")
                continue
            *figures, received = figures
            received = "" if received is None else figure(received / 1024)
            lines.append(f"| {server} | {count} | {' | '.join(map(figure, figures))} | {received} |")
    return ["\n".join([*lines, ""])]
