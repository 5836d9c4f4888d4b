"""Ranks hear of each other's end; played here by threads and sockets."""

import queue
import socket
import threading

import pytest

from muselq_modules import rank_watch
from muselq_modules.rank_watch import MainWatch, RankWatch


class Ended(BaseException):
    """Stands for the end of a process."""


@pytest.fixture
def ends(monkeypatch):
    """(sentence, exit code) of what ends; None for a silent end."""
    found = queue.Queue()

    def end(sentence, code=1, say=True):
        found.put((sentence if say else None, code))
        raise Ended

    monkeypatch.setattr(rank_watch, "_end", end)
    monkeypatch.setattr(rank_watch.os, "_exit", lambda code: end(None, code))
    monkeypatch.setattr(rank_watch, "PATIENCE_S", 0.05)
    return found


def in_thread(run):
    def ignored():
        try:
            run()
        except Ended:
            pass

    threading.Thread(target=ignored, daemon=True).start()


@pytest.fixture
def team(ends):
    """Rank 0 and two others."""
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    main = MainWatch(server, "token")
    in_thread(main.run)
    others = [RankWatch(r, "127.0.0.1", port, "token") for r in (1, 2)]
    for other in others:
        in_thread(other.run)
    while len(main.ranks) < 2:
        pass
    return main, others, port


def test_a_rank_that_dies_ends_the_others(team, ends):
    main, (first, second), _ = team
    first.connection.shutdown(socket.SHUT_RDWR)
    found = {ends.get(timeout=5), ends.get(timeout=5), ends.get(timeout=5)}
    assert ("Rank 1 has died", 1) in found  # rank 0 says it
    assert (None, 1) in found  # and rank 2 ends without a word


def test_rank_0_dies(team, ends):
    main, others, _ = team
    for connection in list(main.ranks):
        connection.shutdown(socket.SHUT_RDWR)
    # All three see it, for rank 0 is still there.
    found = {ends.get(timeout=5) for _ in range(3)}
    assert ("Rank 0 has died", 1) in found  # rank 1 says it
    assert (None, 1) in found  # and rank 2 ends without a word


def test_a_mistake_of_one_rank_is_told(team, ends):
    main, (first, second), _ = team
    first.tell("song.wav is gone")
    found = {ends.get(timeout=5) for _ in range(3)}
    assert ("song.wav is gone (rank 1)", 2) in found


def test_a_good_end_ends_nobody(team, ends):
    main, (first, second), _ = team
    first.done()
    first.connection.close()
    second.done()
    second.connection.close()
    main.done()
    with pytest.raises(queue.Empty):
        ends.get(timeout=0.5)


def test_strangers_are_not_heard(team, ends):
    main, _, port = team
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"wrong 1\nerror nonsense\n")
        assert stranger.recv(10) == b""
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"\xff" * 100 + b"\n")
    with pytest.raises(queue.Empty):
        ends.get(timeout=0.5)
    assert len(main.ranks) == 2
