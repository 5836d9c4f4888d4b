"""A rank that dies takes the others with it, at once and with a sentence

torch.distributed notices a lost rank when its network does, or after a timeout
of two hours. Here every rank holds a connection to rank 0, which the operating
system closes however its owner ends; where a whole machine disappears, the
keep-alive of TCP tells within a minute. A rank that is busy, or waits for a
slow disk, keeps its connection: only a death ends the run.
"""

import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
import time

import torch

from muselq_modules import errors

LONGEST_LINE = 4096
# Ranks that meet the same mistake end by themselves within this time.
PATIENCE_S = 3.0
KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


def watch_ranks():
    """Watch over the ranks of this run from now on; all ranks call it."""
    rank = torch.distributed.get_rank()
    key = [None, None]
    if rank == 0:
        server = socket.create_server(("", 0), backlog=1024)
        key = [server.getsockname()[1], secrets.token_hex(16)]
    torch.distributed.broadcast_object_list(key, src=0)
    port, token = key
    if rank == 0:
        watch = MainWatch(server, token)
    else:
        try:
            watch = RankWatch(rank, os.environ["MASTER_ADDR"], port, token)
        except OSError:
            return  # no such connection here: torchrun alone must notice
    threading.Thread(target=watch.run, daemon=True).start()
    errors.peers = watch


class RankWatch:
    """The end of a rank other than 0."""

    def __init__(self, rank, host, port, token):
        self.rank = rank
        self.over = False
        self.connection = socket.create_connection((host, port), timeout=60)
        self.connection.settimeout(None)
        _keep_alive(self.connection)
        self._send(f"{token} {rank}")

    def _send(self, line):
        with contextlib.suppress(OSError):
            self.connection.sendall(f"{line[:LONGEST_LINE]}\n".encode())

    def done(self):
        """This rank ends as it should."""
        self.over = True
        self._send("done")

    def tell(self, sentence):
        """This rank ends with a mistake that the others may not meet."""
        self._send(f"error {sentence}")
        self.wait()

    def wait(self):
        """Give the watch the time to say why communication has failed."""
        time.sleep(2 * PATIENCE_S)

    def run(self):
        """Wait for the end of rank 0, or for its word."""
        for line in _lines(self.connection):
            if line == "done":
                return
            if line == "stop":
                os._exit(1)  # rank 0 has said why
        if not self.over:
            _end("Rank 0 has died", say=self.rank == 1)


class MainWatch:
    """The end of rank 0."""

    def __init__(self, server, token):
        self.server = server
        self.token = token
        self.ranks = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(server, selectors.EVENT_READ)

    def done(self):
        """All ends as it should."""
        self._send_all(b"done\n")

    def tell(self, sentence):
        """Rank 0 has printed its mistake: the others have no more to say."""
        self._send_all(b"stop\n")

    def wait(self):
        """Give the watch the time to say why communication has failed."""
        time.sleep(PATIENCE_S)

    def run(self):
        """Accept the ranks, then wait for the end of one of them."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.server:
                    self._accept()
                else:
                    self._hear(key.fileobj)

    def _accept(self):
        connection, _ = self.server.accept()
        connection.settimeout(10)
        lines = _lines(connection)
        token, _, rank = next(lines, "").partition(" ")
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            connection.close()  # a stranger
            return
        _keep_alive(connection)
        self.ranks[connection] = rank, lines
        self.selector.register(connection, selectors.EVENT_READ)

    def _hear(self, connection):
        self.selector.unregister(connection)
        rank, lines = self.ranks[connection]
        line = next(lines, None)
        if line == "done":
            del self.ranks[connection]
            return
        if line is None:
            self._stop(f"Rank {rank} has died")
        # The others may be about to meet the same mistake.
        time.sleep(PATIENCE_S)
        self._stop(f"{line.removeprefix('error ')} (rank {rank})", 2)

    def _stop(self, sentence, code=1):
        self._send_all(b"stop\n")
        _end(sentence, code)

    def _send_all(self, line):
        for connection in list(self.ranks):
            with contextlib.suppress(OSError):
                connection.sendall(line)


def _lines(connection):
    """Lines from a connection until it is closed or lost."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = b""
        while len(text) < 2 * LONGEST_LINE:
            piece = connection.recv(LONGEST_LINE)
            if not piece:
                return
            *lines, text = (text + piece).split(b"\n")
            for line in lines:
                yield line.decode()


def _keep_alive(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):  # not on every system
            option = getattr(socket, name)
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _end(sentence, code=1, say=True):
    """End this process, whatever its main thread waits for."""
    if say:
        if sentence.endswith("died"):
            sentence += (
                ": see its last message; the others stop, and the same "
                "command continues from the last checkpoint"
            )
        print(f"Error: {sentence}", file=sys.stderr, flush=True)
    os._exit(code)
