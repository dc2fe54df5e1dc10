"""A TCP relay that counts what passes, between a cache and its Kinto."""

import contextlib
import socket
import threading


class Relay:
    """Relays to a port on loopback; `received` and `sent` are bytes from and to it."""

    def __init__(self, target):
        self.target = target
        self.received = 0
        self.sent = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        with contextlib.suppress(OSError):  # closed: no more is wanted
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                for source, sink, count in ((client, server, "sent"), (server, client, "received")):
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self.copy, args=(source, sink, count), daemon=True).start()

    def copy(self, source, sink, count):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                setattr(self, count, getattr(self, count) + len(data))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
