"""Puts load on one server and says what a request cost it.

The CPU time of the server's whole process tree, from /proc, before and after, over the requests that were completed: on a
shared machine nothing else is as steady.
"""

import dataclasses
import os
import re
import subprocess
import tempfile

TICKS = os.sysconf("SC_CLK_TCK")
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclasses.dataclass
class Cost:
    """What wrk and /proc saw of one server."""

    server: str
    cpu_us: float  # per request
    per_second: float
    p99_ms: float
    kilobytes: float  # per answer, as sent
    beside_us: float = 0.0  # of `cpu_us`, what was taken by processes that are told apart


def tree(roots):
    """What /proc/PID/stat says, from the process's state on, of these processes and all below them."""
    stats, children = {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(entry))
        stats[int(entry)] = fields
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        if pid in stats:
            found.append(stats[pid])
        todo += children.get(pid, [])
    return found


def cpu_seconds(roots):
    """User and system time of these processes and all below them, also of those that have ended."""
    return sum(sum(map(int, fields[11:15])) for fields in tree(roots)) / TICKS


def resident_kilobytes(roots):
    """Memory that these processes and all below them hold, pages that they share counted for each."""
    return sum(int(fields[21]) for fields in tree(roots)) * os.sysconf("SC_PAGE_SIZE") / 1024


def wrk(url, seconds, headers, script, connections):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "60s"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    if script:
        command += ["-s", script]
    answer = subprocess.run([*command, url], capture_output=True, text=True, timeout=seconds + 90, check=True)
    return answer.stdout


def number(pattern, text):
    found = re.search(pattern, text)
    return float(found[1]) if found else 0.0


def measure(server, url, roots, *, beside=(), headers=None, script="", seconds=4, warm_up=1, connections=64):
    """Loads a server, of which `roots` are the processes that do its work, and gives the cost.

    The processes `beside` count, too, and are told apart. `script` is Lua for wrk, where the requests are not all the same.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        lua.write(script)
        lua.flush()
        path = lua.name if script else ""
        if warm_up:
            wrk(url, warm_up, headers or {}, path, connections)
        before, before_beside = cpu_seconds(roots), cpu_seconds(beside)
        text = wrk(url, seconds, headers or {}, path, connections)
        spent, spent_beside = cpu_seconds(roots) - before, cpu_seconds(beside) - before_beside
    completed = number(r"(\d+) requests in", text)
    if completed == 0 or "Non-2xx" in text or re.search(r"(connect|read|write) [1-9]", text):
        raise RuntimeError(f"{server} did not answer well:\n{text}")
    slowest = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", text)
    size = re.search(r"requests in [^,]+, ([\d.]+)(B|KB|MB|GB) read", text)
    scale = {"B": 1 / 1024, "KB": 1, "MB": 1024, "GB": 1024**2}
    return Cost(
        server=server,
        cpu_us=(spent + spent_beside) / completed * 1e6,
        beside_us=spent_beside / completed * 1e6,
        per_second=number(r"Requests/sec:\s+([\d.]+)", text),
        p99_ms=float(slowest[1]) * UNITS[slowest[2]],
        kilobytes=float(size[1]) * scale[size[2]] / completed,
    )


def compare(servers, rounds=2, **options):
    """The cost of each of several servers, (name, URL, processes), that answer the same.

    They take turns, and the round counts in which a request cost least: what else the machine does only ever adds.
    """
    costs = []
    for _ in range(rounds):
        costs.append([measure(name, url, roots, **options) for name, url, roots in servers])
    return [min(turns, key=lambda cost: cost.cpu_us) for turns in zip(*costs)]


def figure(value):
    """Three significant digits, and no exponent."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def table(title, costs, ours="sidecar"):
    """Markdown: each server's cost, and how many times the sidecar's that is."""
    base = next(cost for cost in costs if cost.server == ours)
    lines = [
        f"**{title}**",
        "",
        "| server | CPU µs per request | × sidecar | requests/s | × sidecar | p99 ms | KB per answer |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for cost in costs:
        cells = [
            cost.server,
            figure(cost.cpu_us),
            figure(cost.cpu_us / base.cpu_us) if base.cpu_us else "",
            figure(cost.per_second),
            figure(cost.per_second / base.per_second),
            figure(cost.p99_ms),
            figure(cost.kilobytes),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
