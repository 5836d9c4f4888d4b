"""Is it right on a GPU, and how fast?

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --quick     only to try it

In less than 8 minutes on one H200:

* mixers, layers, features and tokenizer against the CPU in float32;
* whether the host waits for the GPU inside a micro-batch;
* training steps of 16 clips of 30 s in bf16, for the six configurations and
  networks of MusicFM's and MERT's shape: clips a second, peak memory and model
  FLOPs utilisation, the share of the peak that the forward pass's arithmetic,
  three times, makes up;
* what the time of a step is spent on;
* SummaryMixing against flash attention, up to 20 minutes of music;
* with the time that is left, torch.compile.

The JSON is written after every case.
"""

from collections import defaultdict
from functools import partial

import networks
import side_by_side as bench
import torch
from cost import measure as count
from gpu_cases import Cases
from gpu_checks import compare, compare_tokens, modules_to_check
from steps import TrainingStep
from torch import nn

from muselq_modules.attention import RotarySelfAttention
from muselq_modules.errors import UserError, exits_cleanly
from muselq_modules.summary_mixing import SummaryMixing

PEERS = ["MusicFM-shaped", "MERT-330-shaped"]
COMPILED = ["brn_summary", "brn_attention"]
# Kernels by what they do, from their names; the first that fits.
KINDS = {
    "convolutions": ("conv", "dgrad", "wgrad"),
    "attention": ("flash", "fmha", "attention"),
    "matrix products": ("gemm", "cutlass", "nvjet", "matmul", "mm_"),
    "spectrogram": ("fft",),
    "layer norm": ("layer_norm", "layernorm"),
    "optimizer": ("adam", "multi_tensor", "foreach"),
    "copies and casts": ("memcpy", "memset", "copy"),
}


# ---------------------------------------------------------------- training


def check_waiting(arguments):
    """Whether a micro-batch makes the host wait for the GPU."""
    step = make_step("brn_summary", arguments)
    step()
    if torch.device(arguments.device).type != "cuda":
        return {"skipped": "needs CUDA"}
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return {"right": False, "error": str(error).splitlines()[0]}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"right": True}


def make_step(name, arguments, compiled=False, batch=None):
    """A training step as gpu.py measures it."""
    return TrainingStep(
        name,
        batch or arguments.batch,
        arguments.seconds,
        arguments.device,
        bf16=True,
        compiled=compiled,
        quick=arguments.quick,
    )


def train(name, arguments, cases, compiled=False):
    """Throughput of a configuration; a smaller batch where it must be."""
    batch = arguments.batch
    while True:
        try:
            step = make_step(name, arguments, compiled, batch)
            found = cases.milliseconds(step, arguments.repetitions)
            break
        except torch.OutOfMemoryError:
            step = None  # frees the memory
            cases.free()
            if batch == 1:
                raise
            batch //= 2
    parameters, flop = count(name, arguments.quick)
    clips_per_s = 1000 * batch / found["ms"]
    # Counted for 30 s; the six differ in what grows faster than the length.
    tflops = 3e-12 * flop * clips_per_s * arguments.seconds / 30
    return {
        "parameters": parameters,
        "batch": batch,
        **found,
        "clips_per_s": clips_per_s,
        "tflops": tflops,
        "utilisation": tflops / arguments.peak_tflops,
        "loss": float(step()),
    }


def spend(name, arguments):
    """Share of a step's time by what its kernels do."""
    step = make_step(name, arguments)
    for _ in range(3):
        step()
    activity = torch.profiler.ProfilerActivity
    on_gpu = torch.device(arguments.device).type == "cuda"
    kinds = [activity.CUDA if on_gpu else activity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    times, longest = defaultdict(float), []
    for event in profile.key_averages():
        spent = event.self_device_time_total if on_gpu else 0
        spent = spent or event.self_cpu_time_total
        longest.append((spent, event.key[:100]))
        name = event.key.lower()
        for kind, words in KINDS.items():
            if any(word in name for word in words):
                times[kind] += spent
                break
        else:
            times["elementwise and other"] += spent
    total = sum(times.values())
    shares = {kind: round(t / total, 4) for kind, t in times.items()}
    longest = sorted(longest, reverse=True)[:12]
    return {"shares": shares, "longest_us": longest, "total_ms": total / 1000}


# ----------------------------------------------------------------- lengths


def mix(kind, length_s, trained, arguments, cases):
    """One mixing cell on a clip of some length, in bf16."""
    dim = 64 if arguments.quick else 1024
    torch.manual_seed(0)
    cell = {"SummaryMixing": SummaryMixing, "attention": RotarySelfAttention}
    cell = cell[kind](dim).to(arguments.device)
    x = torch.randn(1, 25 * length_s, dim, device=arguments.device)
    device = torch.device(arguments.device).type

    def run():
        with torch.autocast(device, torch.bfloat16):
            if not trained:
                with torch.no_grad():
                    return cell(x)
            values = cell(x.requires_grad_())
        return values.float().sum().backward()

    backend = nn.attention.SDPBackend.FLASH_ATTENTION
    with nn.attention.sdpa_kernel(backend):
        found = cases.milliseconds(run, arguments.repetitions)
    return {"length_s": length_s, "trained": trained, **found}


# -------------------------------------------------------------------- main


def parse(argv):
    """Options, and what --quick makes of them."""
    arguments = bench.parse(
        __doc__,
        argv,
        device=("cuda", "or cpu, to try it"),
        batch=(16, "clips of a step; halved where they do not fit"),
        peak_tflops=(790.0, "of the GPU in bf16"),
        budget_s=(470.0, "seconds for everything"),
    )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "PyTorch finds no GPU: add --device cpu --quick to try the "
            "benchmark without one"
        )
    arguments.seconds, arguments.lengths = 30, (30, 60, 120, 300, 600, 1200)
    arguments.repetitions = max(arguments.repetitions, 10)
    if arguments.quick:
        arguments.seconds, arguments.lengths = 2, (2, 4)
        arguments.batch = arguments.repetitions = 2
    return arguments


def run_cases(arguments, cases):
    """All cases, the most telling first."""
    dim = 64 if arguments.quick else 1024
    torch.manual_seed(0)
    x = torch.randn(2, 100 if arguments.quick else 750, dim)
    padding_mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    padding_mask[1, x.shape[1] // 2 :] = True
    device = arguments.device
    for name, module in modules_to_check(dim).items():
        for precision in ("fp32", "bf16"):
            for mask, how in ((None, "whole"), (padding_mask, "padded")):
                check = partial(compare, module, x, mask, device, precision)
                cases.run("correct", f"{name}, {precision}, {how}", check)
    cases.run("correct", "tokens", partial(compare_tokens, device, 2))
    cases.run("waits", "brn_summary", partial(check_waiting, arguments))
    for name in [*networks.OURS, *PEERS]:
        cases.run("train", name, partial(train, name, arguments, cases), 40)
    cases.run("spend", "brn_summary", partial(spend, "brn_summary", arguments))
    for trained in (False, True):
        for length_s in arguments.lengths:
            for kind in ("SummaryMixing", "attention"):
                case = partial(mix, kind, length_s, trained, arguments, cases)
                cases.run("mix", kind, case)
    for name in [] if arguments.quick else COMPILED:
        case = partial(train, name, arguments, cases, compiled=True)
        cases.run("train", f"{name}, compiled", case, 150)


@exits_cleanly
def main(argv=None):
    """Run everything, then print tables."""
    arguments = parse(argv)
    arguments.output_folder.mkdir(parents=True, exist_ok=True)
    record = {"machine": bench.machine(), "quick": arguments.quick}
    path = arguments.output_folder / "gpu.json"
    cases = Cases(path, arguments.device, arguments.budget_s, record)
    run_cases(arguments, cases)

    checks = cases.of_kind("correct") + cases.of_kind("waits")
    wrong = [case["name"] for case in checks if not case["right"]]
    print(f"\n{len(checks)} checks, wrong: {', '.join(wrong) or 'none'}")
    for case in cases.of_kind("spend"):
        for kind, share in sorted(case["shares"].items(), key=lambda x: -x[1]):
            print(f"{share:7.1%} of a step of {case['name']}: {kind}")
    mixes = {
        (case["name"], case["length_s"], case["trained"]): case["ms"]
        for case in cases.of_kind("mix")
    }
    for name, length_s, trained in mixes:
        pair = mixes.get(("attention", length_s, trained))
        if name == "SummaryMixing" and pair:
            ours = mixes[name, length_s, trained]
            kind = "forward + backward" if trained else "forward"
            print(
                f"{length_s} s, {kind}: SummaryMixing {ours:.2f} ms, flash "
                f"attention {pair:.2f} ms, {pair / ours:.1f}x"
            )
    trained = cases.of_kind("train")
    rows = [
        [
            case["name"],
            case["batch"],
            f"{case['clips_per_s']:.1f}",
            f"{case['ms']:.1f} [{case['least_ms']:.1f}, {case['most_ms']:.1f}]",
            f"{case['peak_gib'] or 0:.1f}",
            f"{case['utilisation']:.0%}",
        ]
        for case in trained
    ]
    header = ["network", "batch", "clips/s", "ms a step", "peak GiB", "MFU"]
    speeds = {case["name"]: case["clips_per_s"] for case in trained}
    draw = bench.bars("clips of 30 s a second, training", speeds)
    bench.report(arguments, "gpu", header, rows, cases.record, draw)
    if wrong:
        raise UserError(f"wrong on this device: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
