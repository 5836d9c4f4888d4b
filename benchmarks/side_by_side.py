"""What the benchmarks share: interleaved timing, memory, and reports.

The competitors of a question run in turns in one process, so that whatever
else a machine does meets them alike, and what is reported are ratios: each
round gives one, the table shows their median and range. Times are CPU seconds
of this process (`time.process_time`), which a busy machine distorts less than
the clock on the wall.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

RESULTS = Path("results") / "benchmarks"
# What a first call sets up does not count in that many seconds.
SLOW_S = 5.0


def parse(description, argv=None, **options):
    """Read the command line of a benchmark.

    Parameters
    ----------
    description : str
        The docstring of the script; its first line is shown.
    argv : list of str, optional
        By default that of the process.
    **options : tuple
        Name -> (default, help) of further options.

    Returns
    -------
    argparse.Namespace
    """
    parser = argparse.ArgumentParser(
        description=description.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="small shapes, only to try it")
    add("--repetitions", type=int, default=5, help="rounds, at most")
    add("--threads", type=int, default=1, help="of PyTorch")
    add("--output_folder", type=Path, default=RESULTS, help="for .json, .png")
    for name, (default, text) in options.items():
        kind = {"action": "store_true"} if default is False else {}
        kind = kind or {"type": type(default)}
        add(f"--{name}", default=default, help=text, **kind)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    return arguments


def interleave(cases, repetitions, budget_s=60.0):
    """CPU seconds and memory of competitors that run in turns.

    Each runs first for its memory. That run counts when it takes `SLOW_S` or
    more, or else is a warm-up. When the first round takes more than
    ``budget_s``, only those run again that took less than a sixth of it.

    Parameters
    ----------
    cases : dict
        Name -> function without arguments.
    repetitions : int
        Rounds.
    budget_s : float
        No round starts when as many seconds are spent.

    Returns
    -------
    dict, dict
        Name -> list of seconds, one a round; name -> peak in MiB, or None.

    Example
    -------
    >>> seconds, _ = interleave({"a": lambda: None, "b": lambda: None}, 3)
    >>> len(seconds["a"]), len(seconds["b"])
    (3, 3)
    """
    seconds, peaks = {}, {}
    for name, run in cases.items():
        first, peaks[name] = _first(run)
        seconds[name] = [first]
    names, spent = list(cases), sum(values[0] for values in seconds.values())
    if spent > budget_s:
        names = [n for n in names if seconds[n][0] < spent / 6]
        budget_s = 2 * spent
    for number in range(1, repetitions):
        if spent > budget_s or not names:
            break
        # Nobody always runs behind the same neighbour.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(cpu_seconds(cases[name]))
            spent += seconds[name][-1]
    return seconds, peaks


def _first(run):
    """CPU seconds and peak MiB of a function that is slow, or warm."""
    found = []

    def timed():
        found.append(cpu_seconds(run))

    peak = peak_mib(timed)
    if found[0] < SLOW_S:
        # The libraries that a first call loads are not its memory.
        peak = peak_mib(timed)
        timed()
    return found[-1], peak


def cpu_seconds(run):
    """CPU seconds that a function takes, over all threads."""
    started = time.process_time()
    run()
    return time.process_time() - started


def flop_of(run):
    """Floating-point operations that a function takes, forward.

    On the meta device, where the counter knows attention: the CPU's fused
    kernel counts as nothing.

    Example
    -------
    >>> x = torch.empty(2, 3, device="meta")
    >>> flop_of(lambda: x @ x.T)
    24
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def ratio(seconds, slow, fast):
    """How many times as long `slow` takes: (median, least, most).

    One that ran in one round only is compared with all rounds of the other.

    Example
    -------
    >>> ratio({"a": [4.0, 9.0, 6.0], "b": [2.0, 3.0, 2.0]}, "a", "b")
    (3.0, 2.0, 3.0)
    >>> ratio({"a": [12.0], "b": [2.0, 4.0, 3.0]}, "a", "b")
    (4.0, 3.0, 6.0)
    """
    a, b = seconds[slow], seconds[fast]
    n = max(len(a), len(b))
    rounds = [x / y for x, y in zip(a * (n // len(a)), b * (n // len(b)))]
    return statistics.median(rounds), min(rounds), max(rounds)


def as_times(ratios):
    """Text of a ratio, with its range.

    Example
    -------
    >>> as_times((3.0, 2.04, 3.2))
    '3x [2.04, 3.2]'
    """
    return "{:.3g}x [{:.3g}, {:.3g}]".format(*ratios)


def peak_mib(run):
    """Memory that a function needs at its peak, in MiB; None if unknown."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    gc.collect()
    # Freed memory that the C library keeps would hide what the next one needs.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # peak := now
    before = _status_kib(status, "VmRSS")
    run()
    return (_status_kib(status, "VmHWM") - before) / 1024


def _status_kib(status, name):
    for line in status.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise KeyError(name)


def machine():
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        lines = cpu.read_text().splitlines()
        models = [line for line in lines if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    found = {
        "cpu": name,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def markdown(header, rows):
    """A table.

    Example
    -------
    >>> print(markdown(["a", "b"], [[1, "x"]]))
    | a | b |
    |---|---|
    | 1 | x |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "|" + "|".join(row) + "|"
        if row[0] == "---"
        else "| " + " | ".join(str(cell) for cell in row) + " |"
        for row in lines
    )


def report(arguments, name, header, rows, record, draw):
    """Print a table, and write NAME.json and NAME.png.

    Parameters
    ----------
    arguments : argparse.Namespace
        From `parse`.
    name : str
        Of the benchmark.
    header, rows : list
        The table.
    record : dict
        All that was measured, for the JSON.
    draw : callable
        Called with matplotlib axes.
    """
    # The first import of matplotlib takes seconds.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    place = machine()
    print(markdown(header, rows))
    where = f"{place.get('gpu', place['cpu'])}, torch {place['torch']}"
    print(f"\n({where}, {place['threads']} thread(s))")
    arguments.output_folder.mkdir(parents=True, exist_ok=True)
    path = arguments.output_folder / f"{name}.json"
    content = {"machine": place, "quick": arguments.quick, **record}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    draw(axes)
    axes.set_title(where, fontsize=8)
    figure.savefig(path.with_suffix(".png"), dpi=120)
    pyplot.close(figure)


def bars(label, values):
    """A function that draws a horizontal bar for each name of a dict."""

    def draw(axes):
        axes.barh(list(values), list(values.values()))
        axes.invert_yaxis()
        axes.set_xlabel(label)

    return draw
