"""How gpu.py times a case: events, peak memory, out of memory, time left."""

import gc
import json
import os
import statistics
import time

import torch


class Cases:
    """Runs cases one after another within a time limit.

    What is known so far is written to a JSON after each case, so that a job
    that is killed leaves what it has measured.

    Parameters
    ----------
    path : Path
        The JSON.
    device : str
        ``cuda`` or ``cpu``.
    budget_s : float
        Seconds for all cases together.
    record : dict
        What the JSON holds besides the cases.
    """

    def __init__(self, path, device, budget_s, record):
        self.path = path
        self.device = torch.device(device)
        self.stop = time.monotonic() + budget_s
        self.record = {**record, "cases": []}

    def run(self, kind, name, case, needs_s=10.0):
        """Run a case if the time is left that it may need.

        Parameters
        ----------
        kind, name : str
            What the JSON calls it.
        case : callable
            Returns a dict, which the JSON receives.
        needs_s : float
            Seconds.
        """
        found = {"kind": kind, "name": name}
        if time.monotonic() + needs_s > self.stop:
            found["skipped"] = "no time left"
        else:
            started = time.monotonic()
            try:
                found |= case()
            except torch.OutOfMemoryError:
                found["skipped"] = "out of memory"
            self.free()
            found["took_s"] = round(time.monotonic() - started, 2)
        self.record["cases"].append(found)
        self._write()
        print(json.dumps(found), flush=True)

    def of_kind(self, kind):
        """The cases of a kind that were measured."""
        return [
            case
            for case in self.record["cases"]
            if case["kind"] == kind and "skipped" not in case
        ]

    def free(self):
        """Give memory back between cases."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _write(self):
        partial = self.path.with_suffix(".tmp")
        partial.write_text(json.dumps(self.record, indent=1), encoding="utf-8")
        os.replace(partial, self.path)

    def milliseconds(self, run, repetitions, warm_up=3):
        """Median time of a function on the device, and its peak memory.

        Returns
        -------
        dict
            ``ms``, ``least_ms``, ``most_ms`` and ``peak_gib`` (None on a
            CPU).
        """
        for _ in range(warm_up):
            run()
        if self.device.type != "cuda":
            times = [_wall_ms(run) for _ in range(repetitions)]
            return _summary(times, None)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        marks = [torch.cuda.Event(enable_timing=True)]
        marks[0].record()
        # The host runs ahead, as in training: it waits once, at the end.
        for _ in range(repetitions):
            run()
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        torch.cuda.synchronize()
        times = [a.elapsed_time(b) for a, b in zip(marks, marks[1:])]
        return _summary(times, torch.cuda.max_memory_allocated() / 2**30)


def _wall_ms(run):
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def _summary(times, peak_gib):
    return {
        "ms": statistics.median(times),
        "least_ms": min(times),
        "most_ms": max(times),
        "peak_gib": peak_gib,
    }
