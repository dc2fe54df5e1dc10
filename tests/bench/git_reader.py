"""The row about git-reader, which Mozilla serves /v2 of Remote Settings with, over the same data.

`REMOTE_SETTINGS` names a checkout of github.com/mozilla/remote-settings; its programs run as they are there, with what they
need installed under `target/bench`. Its own export makes the repository that git-reader reads, of what the sidecar
answers; what the export tells GitHub is left out.
"""

import contextlib
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
        for name in ("small", "other"):
            fill(upstream, name, 50, 180)
        ours, pids = stack.enter_context(servers.sidecar(upstream, *flags, port=port))
        # The export fetches the chain of certificates, whatever that is.
        signature = {"signature": "none", "x5u": f"http://127.0.0.1:{ours}/v2/__lbheartbeat__"}
        for name in ("small", "other"):
            Client(ours).write("PATCH", f"/buckets/bench/collections/{name}", {"data": {"signature": signature}})
        repository = export(source, programs, folder, ours)
        theirs, their_pids = stack.enter_context(git_reader(source, programs, folder, repository))
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
