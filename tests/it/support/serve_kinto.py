"""Serves a Kinto on a free port until standard input ends.

Takes one JSON object: `settings` (those of `[app:main]`), `database` (the folder of PostgreSQL's socket, or null for memory),
`server` (`waitress`, `gunicorn` or `uwsgi`), `processes`, `threads` and `max_body` (bytes of a request, or null; gunicorn has no
such limit). Prints the port once the socket is open. Port 0 and the inherited socket mean that no port is ever guessed;
standard input ends with the test process, however that ends.
"""

import hashlib
import hmac
import json
import os
import socket
import sys
import threading
import uuid

SERVICE_ACCOUNT = "sidecar:secret"


class AnyId:
    """An id generator of an operator's: whatever can stand in a path."""

    def match(self, object_id):
        return len(object_id) > 0

    def __call__(self):
        return str(uuid.uuid4())


def includeme(config):
    """As a plugin: `POST /v1/__purge__` does what `kinto purge-deleted record 0` does."""
    from kinto.core import Service
    from kinto.core.scripts import purge_deleted
    from pyramid.security import NO_PERMISSION_REQUIRED

    purge = Service(name="purge", path="/__purge__")

    @purge.post(permission=NO_PERMISSION_REQUIRED)
    def purge_post(request):
        purge_deleted({"registry": request.registry}, ["record"], 0)
        return {}

    config.add_cornice_service(purge)


def settings_of(options):
    settings = {
        "kinto.storage_backend": "kinto.core.storage.memory",
        "kinto.permission_backend": "kinto.core.permission.memory",
        "kinto.cache_backend": "kinto.core.cache.memory",
        "multiauth.policies": "basicauth",
        "kinto.userid_hmac_secret": "abc",
        "kinto.bucket_create_principals": "system.Authenticated",
        "kinto.includes": "kinto.plugins.default_bucket",
    }
    digest = hmac.new(b"abc", SERVICE_ACCOUNT.encode(), hashlib.sha256).hexdigest()
    for kind in ("bucket", "collection", "group", "record"):
        settings[f"kinto.{kind}_read_principals"] = f"basicauth:{digest}"
    if options["database"]:
        url = database_in(options["database"])
        settings["kinto.storage_backend"] = "kinto.core.storage.postgresql"
        settings["kinto.storage_url"] = url
        settings["kinto.permission_backend"] = "kinto.core.permission.postgresql"
        settings["kinto.permission_url"] = url
        settings["kinto.storage_pool_size"] = "25"
    settings.update(options["settings"])
    return settings


def database_in(folder):
    import psycopg2

    name = "kinto_" + uuid.uuid4().hex
    connection = psycopg2.connect(host=folder, user="kinto", dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
        cursor.execute(f"ALTER DATABASE {name} SET timezone TO 'UTC'")
    connection.close()
    return f"postgresql://kinto@/{name}?host={folder}"


def log_as_json():
    import logging

    from kinto.core import JsonLogFormatter, StreamHandlerWithRequestID

    handler = StreamHandlerWithRequestID(sys.stderr)
    handler.setFormatter(JsonLogFormatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def serve(listener, settings, threads, server, max_body):
    if server == "uwsgi":
        os.set_inheritable(listener.fileno(), True)
        os.environ["KINTO_SETTINGS"] = json.dumps(settings)
        program = os.path.join(os.path.dirname(sys.executable), "uwsgi")
        options = ["--http-socket", f"fd://{listener.fileno()}", "--threads", str(threads), "--enable-threads"]
        options += ["--need-app", "--disable-logging", "--wsgi-file", os.path.abspath(__file__)]
        options += ["--limit-post", str(max_body)] if max_body else []
        # The script names the interpreter of the folder that it was installed in, which has been renamed since.
        os.execv(sys.executable, [sys.executable, program, *options])

    import kinto

    app = kinto.main({}, **settings)
    if settings.get("test.json_log"):
        log_as_json()
    if server == "gunicorn":
        from gunicorn.app.base import BaseApplication

        class Application(BaseApplication):
            def load_config(self):
                self.cfg.set("bind", f"fd://{listener.fileno()}")
                self.cfg.set("worker_class", "gthread")
                self.cfg.set("threads", threads)
                self.cfg.set("control_socket_disable", True)

            def load(self):
                return app

        Application().run()
        return

    import waitress

    limit = {"max_request_body_size": max_body} if max_body else {}
    # Many sidecars keep connections to one Kinto of the tests, and waitress leaves the 101st waiting.
    limit["connection_limit"] = 1000
    waitress.serve(app, sockets=[listener], threads=threads, ident=None, _quiet=True, channel_timeout=300, **limit)


def stop_with_the_test():
    while sys.stdin.buffer.read(1 << 16):
        pass
    os.killpg(0, 9)


def main():
    os.setpgid(0, 0)
    options = json.loads(sys.argv[1])
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    threading.Thread(target=stop_with_the_test, daemon=True).start()
    settings = settings_of(options)
    if options["database"]:
        import kinto
        from kinto.core.scripts import migrate

        # In a child, so that no connection to the database is shared by processes.
        child = os.fork()
        if child == 0:
            code = 1
            try:
                migrate({"registry": kinto.main({}, **settings).registry})
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit("the schema could not be made")
    for _ in range(options["processes"] - 1):
        if os.fork() == 0:
            serve(listener, settings, options["threads"], "waitress", options["max_body"])
    print(listener.getsockname()[1], flush=True)
    # The other servers take the process, or its signals, for themselves.
    if options["server"] == "waitress" or os.fork() == 0:
        serve(listener, settings, options["threads"], options["server"], options["max_body"])
    threading.Event().wait()


# What id generators are found by.
sys.modules["serve_kinto"] = sys.modules[__name__]
if __name__ == "__main__":
    main()
elif "KINTO_SETTINGS" in os.environ:
    import kinto

    application = kinto.main({}, **json.loads(os.environ["KINTO_SETTINGS"]))
