"""A bad network on loopback: a TCP proxy that is slow, loses answers, or cuts connections.

`delay_s` holds back each piece of an answer; while `is_deaf` nothing of an answer comes through,
though what was asked arrives; `cut` ends the connections there are.
"""

import socket
import threading
from contextlib import suppress

from .process import HOST

_PIECE_BYTES = 65_536


class Proxy:
    """Forwards from its own `port` to another's; connections in threads of their own."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.is_deaf = False
        self._target = 0
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()
        self._accepting: threading.Thread | None = None

    def open(self) -> None:
        """Begins; harmless the second time."""
        if self._accepting is None:
            self._accepting = threading.Thread(target=self._accept, daemon=True)
            self._accepting.start()

    def close(self) -> None:
        self._closed.set()
        # Closed alone it would not wake who waits in `accept`.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def forward_to(self, port: int) -> None:
        self._target = port

    def cut(self) -> None:
        for one in tuple(self._open):
            _end(one)

    def passing(self, piece: bytes, *, is_answer: bool) -> bytes:  # noqa: ARG002 (of those that do)
        """What is passed on instead of a piece, however TCP cut it: here as it is."""
        return piece

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((HOST, self._target))
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            asks, answers = (client, server, False), (server, client, True)
            for pair in (asks, answers):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                if is_answer:
                    self._closed.wait(self.delay_s)
                    if self.is_deaf:
                        continue
                sink.sendall(self.passing(piece, is_answer=is_answer))
        for one in (source, sink):
            _end(one)
            self._open.discard(one)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
