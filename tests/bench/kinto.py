"""A Kinto, with plugins or without, in memory or on PostgreSQL, and the records that are read from it."""

import base64
import contextlib
import fcntl
import http.client
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from servers import HERE, TARGET, free_port, running

AUTHORIZATION = "Basic " + base64.b64encode(b"bench:bench").decode()
BATCH = 500

SETTINGS = """
[app:main]
use = egg:kinto
includes = {includes}
storage_backend = kinto.core.storage.{backend}
permission_backend = kinto.core.permission.{backend}
cache_backend = kinto.core.cache.memory
userid_hmac_secret = bench
multiauth.policies = basicauth
bucket_create_principals = system.Authenticated
batch_max_requests = {batch}
{more}

[server:main]
use = egg:waitress#main
host = 127.0.0.1
port = {port}

[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = ERROR
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = %(message)s
"""


def install():
    """Kinto and the plugin, once, under `target/`."""
    venv = TARGET / "venv"
    TARGET.mkdir(parents=True, exist_ok=True)
    with open(TARGET / "venv.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        requirements = (HERE / "requirements.txt").read_text()
        done = venv / "installed.txt"
        if done.exists() and done.read_text() == requirements:
            return
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
        done.write_text(requirements)


@contextlib.contextmanager
def postgres(*options):
    """A PostgreSQL, with options of its program beside the usual ones; gives the folder that its socket is in."""
    server = HERE.parent / "it" / "support" / "serve_postgres.py"
    command = [TARGET / "venv" / "bin" / "python", server, *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    # Leaving closes its standard input, which ends it.
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield process.stdout.readline().strip()


def execute(folder, database, *statements):
    """Runs statements in a database of the PostgreSQL in that folder, each in a transaction of its own."""
    script = "import json, psycopg2, sys; c = psycopg2.connect(host=sys.argv[1], user='kinto', dbname=sys.argv[2])\n"
    script += "c.autocommit = True; [c.cursor().execute(text) for text in json.load(sys.stdin)]"
    command = [TARGET / "venv" / "bin" / "python", "-c", script, folder, database]
    subprocess.run(command, input=json.dumps(statements), text=True, check=True)


@contextlib.contextmanager
def kinto(plugin, resources=("/buckets/bench",), database=None, history=False):
    """A Kinto, which monitors these resources if it has the plugin; gives its port and its processes.

    In memory, or in a new database of the PostgreSQL in the folder `database`: then it is called `kinto_PORT`. With
    `history`, it has Kinto's own plugin for that, too.
    """
    port = free_port()
    programs = TARGET / "venv" / "bin"
    plugins = ["kinto_changes"] * plugin + ["kinto.plugins.history"] * history
    more = [f"changes.resources = {' '.join(resources)}"] if plugin else []
    with tempfile.TemporaryDirectory() as folder:
        if database:
            name = f"kinto_{port}"
            execute(database, "postgres", f"CREATE DATABASE {name}")
            url = f"postgresql://kinto@/{name}?host={database}"
            more += [f"storage_url = {url}", f"permission_url = {url}"]
        settings = pathlib.Path(folder, "kinto.ini")
        text = SETTINGS.format(
            includes=" ".join(plugins),
            backend="postgresql" if database else "memory",
            more="\n".join(more),
            batch=BATCH,
            port=port,
        )
        settings.write_text(text)
        # Kinto tells of its settings where this names them, which the export of Remote Settings relies on.
        told = {"env": {**os.environ, "KINTO_INI": str(settings)}}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **told}
        if database:
            subprocess.run([programs / "kinto", "migrate", "--ini", settings], check=True, **quiet)
        with running([programs / "kinto", "start", "--ini", settings], port, **quiet) as process:
            yield port, [process.pid]


class Client:
    """One connection to a Kinto or to what is in front of it."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method, path, body=None, **headers):
        """The answer's status, headers and bytes."""
        content = None if body is None else json.dumps(body)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if content:
            headers["Content-Type"] = "application/json"
        self.connection.request(method, f"/v1{path}", content, headers)
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def write(self, method, path, body=None):
        """As the owner of everything."""
        status, headers, content = self.ask(method, path, body, Authorization=AUTHORIZATION)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {content[:300]}")
        return headers, json.loads(content)


def record(number, filler):
    """Some text and numbers, as many bytes longer than 70 as asked for, that compress as JSON does."""
    words = "".join(f" {(number * 7919 + word * 104729) % 999983:x}" for word in range(filler))
    return {"number": number, "title": f"Record {number}", "text": words[:filler]}


def fill(port, collection, count, filler):
    """Makes a collection with so many records, a second apart and all in the past; gives their timestamps."""
    client = Client(port)
    everyone = {"permissions": {"read": ["system.Everyone"]}}
    client.write("PUT", "/buckets/bench", everyone)
    uri = f"/buckets/bench/collections/{collection}"
    client.write("PUT", uri, {"data": {"sort": "title"}})
    first = int(time.time() * 1000) - (count + 3600) * 1000
    stamps = [first + number * 1000 for number in range(count)]
    for start in range(0, count, BATCH):
        requests = [
            {
                "path": f"{uri}/records/{number:032x}",
                "body": {"data": {**record(number, filler), "last_modified": stamps[number]}},
            }
            for number in range(start, min(start + BATCH, count))
        ]
        _, answer = client.write("POST", "/batch", {"defaults": {"method": "PUT"}, "requests": requests})
        for response in answer["responses"]:
            if response["status"] != 201:
                raise RuntimeError(f"a record was refused: {response}")
    return stamps
