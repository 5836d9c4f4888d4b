"""A process that has imported everything and forks runs: a kill costs no start.

python -m chaos.server      reads requests, one JSON line each
"""

import base64
import contextlib
import itertools
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+k"
    "cQAAAABJRU5ErkJggg=="
)


class Server:
    """The client's side.

    Parameters
    ----------
    folder : Path
        Receives what the runs print.
    """

    def __init__(self, folder):
        self.folder = folder
        self.count = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chaos.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
                "OMP_NUM_THREADS": "1",
            },
        )

    def _ask(self, **request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self.process.wait()
            raise RuntimeError(f"the server has ended with exit code {code}")
        return json.loads(answer)

    def start(
        self, script, arguments=(), fault=None, clock_s=0.0, backwards=False
    ):
        """Start a script, or a function ``module:name``, in a new process.

        Parameters
        ----------
        script : str or Path
        arguments : list
            Of the command line, or of the function.
        fault : dict, optional
            Arguments of an `Injection`.
        clock_s : float
            By how much its clock is wrong.
        backwards : bool
            Whether its clock goes back two seconds with every look at it.

        Returns
        -------
        Run
        """
        self.count += 1
        log = self.folder / f"{self.count:05d}.log"
        log.touch()
        pid = self._ask(
            script=str(script),
            arguments=[a if isinstance(a, list) else str(a) for a in arguments],
            log=str(log),
            fault=fault,
            clock_s=clock_s,
            backwards=backwards,
        )
        return Run(self, pid, log)

    def run(self, script, arguments=(), **options):
        """Run to the end; returns the exit code and what was printed."""
        run = self.start(script, arguments, **options)
        return run.wait(), run.output()

    def wait(self, pid):
        """Exit code of a run; of a killed one the negative signal."""
        return self._ask(wait=pid)

    def close(self):
        """End the server."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Run:
    """A run that was started."""

    def __init__(self, server, pid, log):
        self.server, self.pid, self.log = server, pid, log
        self.code = None

    def wait(self, after_s=None, number=signal.SIGKILL):
        """Exit code; with ``after_s``, of a run that gets a signal then."""
        if after_s is not None:
            time.sleep(after_s)
            os.kill(self.pid, number)
        self.code = self.server.wait(self.pid)
        return self.code

    def output(self):
        """What it has printed so far."""
        return self.log.read_text("utf-8", errors="replace")


def serve():
    """Answer requests until the client goes."""
    import torch

    torch.set_num_threads(1)
    _import_everything()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                return _become(request)
        print(json.dumps(answer), flush=True)


def _import_everything():
    import speechbrain.utils.logger

    from muselq_modules import parallel

    sys.path.insert(0, str(ROOT / "recipes" / "pretrain"))
    runpy.run_path(str(ROOT / "recipes" / "pretrain" / "train.py"))
    runpy.run_path(str(ROOT / "recipes" / "pretrain" / "shard.py"))
    sys.path.insert(0, str(ROOT / "recipes" / "template"))
    runpy.run_path(str(ROOT / "recipes" / "template" / "train.py"))
    import matplotlib.backends.backend_agg  # noqa: F401
    import torch._dynamo  # noqa: F401, the first optimizer imports it
    from matplotlib import figure

    import muselq_modules.export
    import muselq_modules.extract  # noqa: F401

    def pool(workers):
        # Not the fork server of `parallel`, which would import torch anew.
        return ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("fork"),
            initializer=parallel.start_worker,
        )

    parallel._pool = pool
    # Curves take half of the time of so short a run: they are one pixel.
    figure.Figure.savefig = lambda self, file, **_: file.write(PIXEL)
    # Which asks pip for seconds at every start.
    speechbrain.utils.logger.get_environment_description = lambda: "tests"


def _become(request):
    """Turn this forked process into a run."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    if request["clock_s"]:
        now, looks = time.time, itertools.count()
        pace = -2.0 if request["backwards"] else 0.0
        time.time = lambda: now() + request["clock_s"] + pace * next(looks)
    if request["fault"]:
        from chaos.injection import Injection

        Injection(**request["fault"]).install()
    script, arguments = request["script"], request["arguments"]
    if script.endswith(".py"):
        sys.argv = [script, *arguments]
        sys.path.insert(0, str(Path(script).parent))
        runpy.run_path(script, run_name="__main__")
    else:
        module, _, name = script.partition(":")
        __import__(module)
        getattr(sys.modules[module], name)(*arguments)


if __name__ == "__main__":
    serve()
