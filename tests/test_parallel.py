"""Processes whose server is killed while it starts them."""

import contextlib
import os
import signal
import threading
from multiprocessing import forkserver

import pytest

from muselq_modules.errors import UserError
from muselq_modules.parallel import HAS_SERVER, process_context, run_parallel

pytestmark = pytest.mark.skipif(
    not HAS_SERVER,
    reason="processes are not forked by a server here",
)


@contextlib.contextmanager
def server_killed_in_half_a_second():
    """The next start waits for a server that never answers."""
    forkserver.ensure_running()
    server = forkserver._forkserver._forkserver_pid
    os.kill(server, signal.SIGSTOP)
    timer = threading.Timer(0.5, os.kill, (server, signal.SIGKILL))
    timer.start()
    yield
    timer.join()


def test_a_process_is_started_by_the_next_server():
    process_context()  # what the server imports
    with server_killed_in_half_a_second():
        process = process_context().Process(target=os._exit, args=(7,))
        process.start()
        process.join()
    assert process.exitcode == 7


def test_a_pool_goes_on_with_the_next_server():
    with server_killed_in_half_a_second():
        found = sorted(run_parallel(abs, [-2, 1, -3], workers=1))
    assert found == [(-3, 3), (-2, 2), (1, 1)]


def test_servers_that_are_always_killed_are_one_sentence(monkeypatch):
    def killed(process):
        raise EOFError

    process = process_context().Process(target=os._exit, args=(7,))
    monkeypatch.setattr(type(process), "_Popen", staticmethod(killed))
    with pytest.raises(UserError, match="cannot start"):
        process.start()
