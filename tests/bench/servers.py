"""Starts and stops what is compared: the sidecar, nginx, Varnish and the bare hyper server, all on loopback."""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = ROOT / "target" / "bench"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port, process, seconds=30):
    """Until something accepts connections there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args[0]} ended: see above")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args[0]} does not listen on port {port}")


@contextlib.contextmanager
def running(command, port=None, **options):
    """A process for as long as it is needed."""
    process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, **options)
    try:
        if port is not None:
            wait_for(port, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def build():
    """Compiles what is measured of this repository, with all optimizations.

    `KINTO_SIDECAR_BINARY` names a sidecar that is there already.
    """
    if "KINTO_SIDECAR_BINARY" not in os.environ:
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
    build_bare()


def build_bare():
    """Compiles the bare hyper server."""
    manifest = HERE / "bare" / "Cargo.toml"
    bare_target = TARGET / "cargo"
    command = ["cargo", "build", "--release", "--quiet", "--locked"]
    command += ["--manifest-path", manifest, "--target-dir", bare_target]
    subprocess.run(command, check=True)


def install_peers():
    """Takes nginx, Varnish and wrk from Debian's packages where they are missing."""
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{path}:/usr/sbin:/sbin"
    packages = {"nginx": "nginx-light", "varnishd": "varnish", "wrk": "wrk"}
    missing = [package for program, package in packages.items() if not shutil.which(program)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit(f"Please install these first: {' '.join(missing)}")
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}, "check": True}
    subprocess.run(["apt-get", "update", "-qq"], **quiet)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], **quiet)


def versions():
    """The peers' names and versions: `nginx 1.22.1`."""
    found = []
    for command in (["nginx", "-v"], ["varnishd", "-V"]):
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        line = (answer.stderr or answer.stdout).partition("\n")[0]
        if match := re.search(r"(nginx|varnish)[-/](\d[\d.]*)", line):
            found.append(f"{match[1]} {match[2]}")
    return found


@contextlib.contextmanager
def bare(identity, gzip=None):
    """The bare hyper server with these bytes; gives its port and its processes."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, content in (("identity", identity), ("gzip", gzip)):
            if content is not None:
                files.append(pathlib.Path(folder, name))
                files[-1].write_bytes(content)
        program = TARGET / "cargo" / "release" / "bare"
        with running([program, port, *files], port) as process:
            yield port, [process.pid]


@contextlib.contextmanager
def sidecar(upstream_port, *flags, journal="sqlite::memory:", port=0):
    """The sidecar in front of an upstream; gives its port and its processes."""
    program = os.environ.get("KINTO_SIDECAR_BINARY", ROOT / "target" / "release" / "kinto-sidecar")
    command = [program, "--upstream", f"http://127.0.0.1:{upstream_port}/v1", "--listen", f"127.0.0.1:{port}"]
    command += ["--journal", journal]
    with running([*command, "--log", "warn", *flags], stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r'listening on http://[^ "]*:(\d+)', line):
                yield int(found[1]), [process.pid]
                return
        raise RuntimeError("the sidecar did not start:\n" + "".join(lines))


NGINX = """
daemon off;
worker_processes 2;
{user}
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=all:10m max_size=1g use_temp_path=off;
    gzip on;
    gzip_types application/json;
    gzip_proxied any;
    upstream kinto {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port} reuseport;
        location / {{
            proxy_pass http://kinto;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            {cache}
        }}
    }}
}}
"""

NGINX_CACHE = """
            proxy_set_header Accept-Encoding "";
            proxy_ignore_headers Cache-Control Expires Set-Cookie Vary;
            proxy_cache all;
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
"""


@contextlib.contextmanager
def nginx(upstream_port, caches):
    """nginx in front of an upstream, which keeps every answer or none; gives its port and its processes."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "nginx.conf")
        user = "user root;" if os.geteuid() == 0 else ""
        cache = NGINX_CACHE if caches else ""
        config.write_text(NGINX.format(folder=folder, port=port, upstream=upstream_port, user=user, cache=cache))
        with running(["nginx", "-p", folder, "-c", config, "-e", "stderr"], port) as process:
            yield port, [process.pid]


VCL = """
vcl 4.1;
backend kinto {{ .host = "127.0.0.1"; .port = "{upstream}"; .max_connections = 128; }}
sub vcl_backend_response {{
    unset beresp.http.Set-Cookie;
    set beresp.uncacheable = false;
    set beresp.ttl = 1h;
    set beresp.do_gzip = true;
    return (deliver);
}}
"""


@contextlib.contextmanager
def varnish(upstream_port):
    """Varnish in front of an upstream, which keeps every answer compressed; gives its port and its processes."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "default.vcl")
        config.write_text(VCL.format(upstream=upstream_port))
        command = ["varnishd", "-F", "-j", "none", "-n", f"{folder}/work", "-f", config, "-T", "none"]
        command += ["-a", f"127.0.0.1:{port}", "-s", "malloc,512m"]
        with running(command, port, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            yield port, [process.pid]
