"""The row about git-reader, which Mozilla serves /v2 of Remote Settings with, over the same data.

`REMOTE_SETTINGS` names a checkout of github.com/mozilla/remote-settings; its programs run as they are there, with what they
need installed under `target/bench`. Its own export makes the repository that git-reader reads, of what the sidecar
answers; what the export tells GitHub is left out.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

import servers
from kinto import Client, fill, kinto
from load import compare, table

CONNECTIONS = 16
# What integers are written like, and what almost are.
VALUES = """
0 5 +5 %2B5 -5 1.0 1.00 1.5 .5 1. 1e3 0x10 true 1_000 1__0 _1 1_ 00012 %2012%20 12%0A %C2%A012 -0 -0.0 %2242%22 42%22 %D9%A3 %FF %00
inf null 9999123 09999 --0 1;2 9223372036854775808 18446744073709551616
""".split()
VALUES += ["", "9" * 4300, "9" * 4301]
FORMS = ("_expected={}", "_expected=0&_since={}", "_expected=7&_since={}", "_since={}")
QUERIES = """
_expected=0&_expected=1 _expected=x&_expected=1 _expected=1&_expected=x _since=1&_since=x&_expected=0 _expected[]=1 _expected=0&foo=bar
EXPECTED=0 _expected=0;_since=1 _expected _expected=0&_since &&_expected=0 ?_expected=0 %5fexpected=0 _expected=0&bucket=bench
_expected=0&bucket= _expected=0&collection= _expected=0&bucket=bench&collection=small _expected=0&bucket=bench&bucket=x
_expected=0&bucket=BENCH _expected=0&bucket=ben _expected=0&collection=%FF _expected=0&_limit=1 _expected=0&_fields=id _expected=0&_sort=id
""".split()
COLLECTION = "/v2/buckets/bench/collections/small/changeset?_expected=0"
LIST = "/v2/buckets/monitor/collections/changes/changeset?_expected=0"

EXPORT = """
import sys
sys.path.insert(0, sys.argv[1])
from commands import git_export
git_export.github_lfs_validate_credentials = lambda **_: ""
git_export.github_lfs_batch_upload_many = lambda **_: None
git_export.git_export()
"""


def checkout():
    """Where git-reader is, or nothing."""
    named = os.environ.get("REMOTE_SETTINGS")
    return named and pathlib.Path(named).resolve()


def interpreter():
    """A Python that reads its export, 3.12 or later."""
    is_new = "import sys; sys.exit(sys.version_info < (3, 12))"
    for name in (sys.executable, "python3.14", "python3.13", "python3.12"):
        program = shutil.which(name)
        if program and subprocess.run([program, "-c", is_new], stderr=subprocess.DEVNULL).returncode == 0:
            return program
    raise SystemExit("Please install Python 3.12 or later first")


def install(source):
    """What git-reader and the export need, in the versions that they name, once; gives where the programs are."""
    venv = servers.TARGET / "git-reader"
    needed, pinned = [], {}
    for part in ("cronjobs", "git-reader"):
        needed += tomllib.loads((source / part / "pyproject.toml").read_text())["project"]["dependencies"]
        packages = tomllib.loads((source / part / "uv.lock").read_text())["package"]
        pinned |= {package["name"]: package["version"] for package in packages if "registry" in package["source"]}
    wanted, done = json.dumps([needed, pinned]), venv / "installed.json"
    if not done.exists() or done.read_text() != wanted:
        subprocess.run([interpreter(), "-m", "venv", "--clear", venv], check=True)
        pins = venv / "pins.txt"
        pins.write_text("".join(f"{name}=={version}\n" for name, version in pinned.items()))
        pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", pins]
        subprocess.run([*pip, *needed], check=True)
        done.write_text(wanted)
    return venv / "bin"


def git(*arguments):
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def export(source, programs, folder, port):
    """A repository with what the sidecar at this port has, as git-reader wants it."""
    remote, key, repository = folder / "remote.git", folder / "key", folder / "repository"
    git("init", "--quiet", "--bare", remote)
    for name in (key, key.with_suffix(".pub")):
        name.write_text("none")
    told = {
        "SERVER": f"http://127.0.0.1:{port}/v1",
        "GIT_REMOTE_URL": f"file://{remote}",
        "WORK_DIR": str(folder / "work.git"),
        "SSH_PRIVKEY_PATH": str(key),
    }
    command = [programs / "python", "-c", EXPORT, source / "cronjobs" / "src"]
    subprocess.run(command, env={**os.environ, **told}, stdout=subprocess.DEVNULL, check=True)
    git("clone", "--quiet", "--branch", "v1/common", remote, repository)
    for branch in git("-C", repository, "branch", "--remotes", "--format=%(refname:lstrip=3)").split():
        if branch.startswith("v1/") and branch != "v1/common":
            git("-C", repository, "branch", branch, f"origin/{branch}")
    return repository


@contextlib.contextmanager
def git_reader(source, programs, folder, repository):
    """git-reader with one worker, which is what it has by itself; gives its port and its processes."""
    program = folder / "program"
    program.mkdir()
    for name in ("app.py", "mimetypes.txt", "version.json"):
        text = (source / "git-reader" / name).read_text()
        if name == "app.py":
            # Python 3.14 needs no parentheses there.
            text = re.sub(r"except (\w+(?:, \w+)+):", r"except (\1):", text)
        (program / name).write_text(text)
    port = servers.free_port()
    told = {"GIT_REPO_PATH": str(repository), "SELF_CONTAINED": "false", "ATTACHMENTS_BASE_URL": "http://localhost/"}
    command = [programs / "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", port]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = {"cwd": program, "env": {**os.environ, **told}, **quiet}
    with servers.running([*command, "--factory", "app:app_factory"], port, **options) as process:
        yield port, [process.pid]


def answer(port, path):
    """What is told apart of an answer: its status, where it leads, and what it says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Host": "settings.example.org"})
    given = connection.getresponse()
    content = given.read()
    location = (given.headers["Location"] or "").removeprefix("http://settings.example.org")
    if given.status == 200:
        # Members stand in another order, and a tombstone says less there.
        content = json.loads(content)
        rows = content.get("changes", [])
        content["changes"] = [{"id": row["id"], "deleted": True} if row.get("deleted") else row for row in rows]
        content.get("metadata", {}).pop("signature", None)
        content.get("metadata", {}).pop("signatures", None)
    return given.status, location, content


def asked(newest):
    """Paths with parameters, good ones and bad ones."""
    values = [*VALUES, newest - 1, newest, newest + 1]
    queries = [form.format(value) for value in values for form in FORMS] + ["", *QUERIES]
    places = ("monitor/collections/changes", "bench/collections/small", "no/collections/such")
    return [f"/v2/buckets/{place}/changeset?{query}" for place in places for query in queries]


def differences(ours, theirs, newest):
    """How many requests were compared; those that git-reader leads to the whole or breaks at; those that it answers otherwise."""
    paths, led, other = asked(newest), [], []
    for path in paths:
        own, their = answer(ours, path), answer(theirs, path)
        is_led = their[0] == 307 and "_since" in path and "_since" not in their[1]
        if own[0] == 200 and (is_led or their[0] == 500):
            led.append(path)
        elif own != their:
            other.append(f"{path[:120]}\n  sidecar    {str(own)[:300]}\n  git-reader {str(their)[:300]}")
    return len(paths), led, other


def row(seconds):
    """/v2 beside git-reader."""
    source = checkout()
    if source is None:
        return ["Not compared: `REMOTE_SETTINGS` names no checkout of remote-settings.\n"]
    programs, report = install(source), []
    flags = ["--set", "changes.resources=/buckets/bench", "--set", "sidecar.compat=remote-settings"]
    # As many threads as git-reader has workers.
    flags += ["--history", "off", "--set", "sidecar.threads=1"]
    # The export fetches a bundle from where clients know the sidecar.
    port = servers.free_port()
    flags += ["--set", f"sidecar.public_url=http://127.0.0.1:{port}"]
    with (
        tempfile.TemporaryDirectory() as folder,
        kinto(False) as (upstream, _),
        contextlib.ExitStack() as stack,
    ):
        folder = pathlib.Path(folder)
        ours, pids = stack.enter_context(servers.sidecar(upstream, *flags, port=port))
        # The export fetches the chain of certificates, whatever that is.
        signature = {"signature": "none", "x5u": f"http://127.0.0.1:{ours}/v2/__lbheartbeat__"}
        for name in ("small", "other"):
            fill(ours, name, 50, 180)
            # What is dated back is told of again for a while: this is not.
            Client(ours).write("PATCH", f"/buckets/bench/collections/{name}/records/{0:032x}", {"data": {"number": -1}})
            Client(ours).write("PATCH", f"/buckets/bench/collections/{name}", {"data": {"signature": signature}})
        repository = export(source, programs, folder, ours)
        theirs, their_pids = stack.enter_context(git_reader(source, programs, folder, repository))
        newest = int(Client(ours).ask("HEAD", "/buckets/bench/collections/small/records")[1]["ETag"].strip('"'))
        number, led, other = differences(ours, theirs, newest)
        report.append(f"{number} requests: {len(other)} answered otherwise by git-reader, {len(led)} led to the whole or 500.\n")
        report += [f"{difference}\n" for difference in other]
        for title, path in (("a changeset of 50 records", COLLECTION), ("the list of 2 collections", LIST)):
            compared = [
                ("sidecar", f"http://127.0.0.1:{ours}{path}", pids),
                ("git-reader", f"http://127.0.0.1:{theirs}{path}", their_pids),
            ]
            costs = compare(compared, seconds=seconds, connections=CONNECTIONS)
            times = costs[0].per_second / costs[1].per_second, costs[1].cpu_us / max(costs[0].cpu_us, 0.1)
            report.append(table(f"/v2, {title}, {CONNECTIONS} connections, a thread and a worker", costs))
            report.append(f"{times[0]:.0f} times its rate, for {1 / times[1]:.4f} of its CPU time.\n")
    return report
