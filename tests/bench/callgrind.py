"""Programs under valgrind's callgrind, and what one request costs them: instructions in user space, and allocations.

A count must not depend on time. So one connection asks for the same with the same bytes, and sends its next request only
when the program has come to rest. A thread that has nothing to do waits in `epoll_wait`, and each time before it does,
callgrind writes down what it has spent since the last time: what was written between two rests is what one request cost.
The thread that answers is counted alone: what others do now and then has nothing to do with requests. What is made once a
second (a `Date`, an answer that is remembered for the second) was made by the request before: a count that does not end in
the second in which that one began is thrown away. Of many counts the least is taken, as what a thread does beside its
requests (its clock ticks) only ever adds.
"""

import contextlib
import glob
import os
import pathlib
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import servers

WARM_UP = 100
# So many counts are taken of requests that ended within their second.
COUNTS = 25
# A machine on which so many did not is too busy.
MOST_THROWN_AWAY = 300
# Each time the same, whatever port is free.
HEAD = "GET {path} HTTP/1.1\r\nHost: kinto.example\r\nAccept-Encoding: identity\r\n\r\n"
# valgrind counts a `rep movsb` as one instruction for each byte: copies are made with vectors instead.
PLAIN_COPIES = "glibc.cpu.x86_rep_movsb_threshold=1000000000:glibc.cpu.x86_rep_stosb_threshold=1000000000"
# What mimalloc is asked for memory by.
ALLOCATORS = re.compile(r"mi_(?:heap_)?(?:malloc|zalloc|calloc|realloc|rezalloc)(?:_aligned|_small)?$")


class CannotCount(Exception):
    """There is no valgrind, it cannot be had, or it does not work here."""


def install():
    """valgrind: the one that is there, or Debian's package, unpacked under `target/`."""
    if platform.machine() != "x86_64":
        raise CannotCount("the counts are those of x86-64")
    if shutil.which("valgrind"):
        return
    folder = servers.TARGET / "valgrind"
    if not folder.exists():
        unpack("valgrind", folder)
    os.environ["PATH"] = f"{folder}/usr/bin:{os.environ['PATH']}"
    os.environ["VALGRIND_LIB"] = f"{folder}/usr/libexec/valgrind"


def unpack(package, folder):
    servers.TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=servers.TARGET) as partial:
        download = ["apt-get", "download", "-qq", package]
        try:
            # A machine that was just made has no list of packages yet.
            if subprocess.run(download, cwd=partial, check=False).returncode != 0:
                subprocess.run(["apt-get", "update", "-qq"], check=True)
                subprocess.run(download, cwd=partial, check=True)
            (file,) = pathlib.Path(partial).glob("*.deb")
            subprocess.run(["dpkg-deb", "--extract", file, f"{partial}/all"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CannotCount(f"valgrind is not there, and Debian's package cannot be had: {error}") from error
        os.rename(f"{partial}/all", folder)


def threads(pid):
    """The state of each thread, and how often it has begun and ceased to run."""
    found = {}
    for path in glob.glob(f"/proc/{pid}/task/*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(path, encoding="utf-8") as status:
            found[path] = re.findall(r"^(?:State|\w+_ctxt_switches):\s+(\w+)", status.read(), re.MULTILINE)
    return found


def has_come_to_rest(pid):
    """Whether all threads of a process wait for something.

    One that was seen to wait may run when the next is looked at, woken by it. So all have to wait at one moment: none ran
    between two looks.
    """
    before = threads(pid)
    return all(thread[0] == "S" for thread in before.values()) and threads(pid) == before


def await_rest(pid):
    while not has_come_to_rest(pid):
        time.sleep(0.0002)


class Client:
    """One connection to a program under callgrind."""

    def __init__(self, port, pid):
        self.socket = socket.create_connection(("127.0.0.1", port), 300)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pid = pid

    def ask(self, path):
        """The head's lines and the body."""
        await_rest(self.pid)
        self.socket.sendall(HEAD.format(path=path).encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self.receive()
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = [tuple(line.split(": ", 1)) for line in lines[1:]]
        length = next(int(value) for name, value in fields if name.lower() == "content-length")
        while len(body) < length:
            body += self.receive()
        if " 200 " not in lines[0]:
            raise RuntimeError(f"{path}: {lines[0]} {body[:300]}")
        return fields, body

    def receive(self):
        received = self.socket.recv(1 << 20)
        if not received:
            raise RuntimeError("the connection was closed")
        return received


class Counted:
    """A process under callgrind."""

    def __init__(self, process, port, folder):
        self.pid, self.port, self.folder = process.pid, port, folder
        self.least = []

    def cost(self, path):
        """Instructions and allocations of one request on one connection that is warm."""
        client = Client(self.port, self.pid)
        await_rest(self.pid)
        # That was the start.
        self.spent()
        for _ in range(WARM_UP):
            client.ask(path)
        await_rest(self.pid)
        spent = self.spent()
        if not spent:
            raise CannotCount("callgrind does not see where the program waits")
        thread = max(spent, key=lambda thread: sum(instructions for instructions, _, _ in spent[thread]))
        counts, began, thrown_away = [], 0.0, 0
        while len(counts) < COUNTS:
            before, began = began, time.time()
            client.ask(path)
            await_rest(self.pid)
            spent = self.spent().get(thread, [])
            if int(before) == int(time.time()):
                counts.append((*(sum(numbers) for numbers in list(zip(*spent))[:2]), spent))
                continue
            thrown_away += 1
            if thrown_away == MOST_THROWN_AWAY:
                raise CannotCount("the machine is so busy that two requests take longer than a second")
        self.least = min(counts)[-1]
        return tuple(min(numbers) for numbers in list(zip(*counts))[:2])

    def spent(self):
        """What each thread spent since this was asked before, each time until it waited: instructions, allocations, and the
        lines that say on what."""
        spent = {}
        start = f"{self.folder}/callgrind.out.{self.pid}."
        dumps = (name.removeprefix(start).split("-") for name in glob.glob(f"{start}*-*"))
        for number, thread in sorted(dumps, key=lambda dump: int(dump[0])):
            dump = pathlib.Path(f"{start}{number}-{thread}")
            lines = dump.read_text(encoding="utf-8", errors="replace").splitlines()
            spent.setdefault(thread, []).append((*read(lines), lines))
            dump.unlink()
        return spent

    def functions(self, most):
        """What the least count was spent on, each time until the thread waited: inclusive, then exclusive."""
        for _, _, lines in self.least:
            dump = pathlib.Path(self.folder, "least")
            dump.write_text("\n".join(lines), encoding="utf-8")
            for inclusive in ("yes", "no"):
                command = ["callgrind_annotate", f"--inclusive={inclusive}", "--auto=no", "--threshold=100", dump]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
                costs = [line.strip() for line in said if re.match(r"\s*[\d,]+ \(\s*[\d.]+%\)", line)]
                yield f"inclusive: {inclusive}\n" + "\n".join(costs[:most])


def read(lines):
    """The instructions in a dump, and how often memory was asked for."""
    instructions, allocations, names, called = 0, 0, {}, None
    for line in lines:
        if found := re.match(r"(c?fn)=\((\d+)\)(?: (.*))?", line):
            if found[3]:
                names[found[2]] = found[3]
            if found[1] == "cfn":
                called = names[found[2]]
            else:
                caller = names[found[2]]
        elif found := re.match(r"calls=(\d+)", line):
            # One of them may call another.
            if ALLOCATORS.match(called) and not caller.startswith(("mi_", "_mi_")):
                allocations += int(found[1])
        elif found := re.match(r"(?:totals|summary): (\d+)", line):
            instructions = max(instructions, int(found[1]))
    return instructions, allocations


@contextlib.contextmanager
def counted(command, port=None):
    """A program under callgrind. Its port is read from what it prints where none is given."""
    with tempfile.TemporaryDirectory() as folder:
        valgrind = ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--dump-before=epoll_wait"]
        valgrind += [f"--callgrind-out-file={folder}/callgrind.out.%p"]
        options = {} if port else {"stderr": subprocess.PIPE, "text": True}
        options["env"] = {**os.environ, "GLIBC_TUNABLES": PLAIN_COPIES}
        with servers.running([*valgrind, "--quiet", *command], **options) as process:
            if port:
                servers.wait_for(port, process, 60)
            else:
                found = (re.search(r'listening on http://[^ "]*:(\d+)', line) for line in process.stderr)
                port = int(next(match for match in found if match)[1])
                # What is logged from here on is taken, as by whoever reads a log.
                threading.Thread(target=lambda: [None for _ in process.stderr], daemon=True).start()
            yield Counted(process, port, folder)


class Upstream:
    """Answers each request with the same bytes, as soon as whoever asks (`asker`, a process) has come to rest.

    An answer that is there before its reader has gone to wait for it would be counted differently each time.
    """

    def __init__(self, body):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.asker = None
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        date = "date: Fri, 27 Nov 2026 00:00:00 GMT\r\n\r\n"
        self.answer = f"{head}{date}{body}".encode()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with contextlib.suppress(ConnectionError), connection:
            received = b""
            while more := connection.recv(1 << 16):
                received += more
                if received.endswith(b"\r\n\r\n"):
                    if self.asker:
                        await_rest(self.asker)
                    connection.sendall(self.answer)
                    received = b""
