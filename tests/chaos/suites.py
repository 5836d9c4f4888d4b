"""Faults that are tests of their own: run with pytest, counted here."""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from pretrain_runs import ROOT

from chaos.registry import Outcome

EXAMPLES = 100
# Name -> (what pytest runs, trials of each test)
SUITES = {
    "audio that lies about its size, or unfolds": (
        ["tests/test_hostile_audio.py"],
        1,
    ),
    "hostile encoders, configurations, caches, shards and pickles": (
        [
            "tests/test_untrusted.py",
            "tests/test_checkpoints.py",
            "tests/test_hostile_caches.py",
            "tests/test_shard_faults.py",
        ],
        1,
    ),
    "label files cut, edited or no text": (
        ["tests/test_damaged_annotations.py"],
        1,
    ),
    "command line of any words": (
        ["tests/test_configuration_fuzz.py", "-k", "command_lines"],
        EXAMPLES,
    ),
    "every key and run option, values of every kind": (
        ["tests/test_configuration_keys.py"],
        1,
    ),
    "options of any words after a command": (
        ["tests/test_command_fuzz.py", "-k", "test_commands"],
        EXAMPLES,
    ),
    "YAML files of any lines": (
        ["tests/test_configuration_fuzz.py", "-k", "files"],
        EXAMPLES,
    ),
}


def try_suite(name, folder, share=1.0):
    """Run the tests of a suite; a failure counts as all its examples."""
    arguments, weight = SUITES[name]
    examples = max(1, round(share * EXAMPLES))
    weight = min(weight, examples)
    report = Path(folder) / "suite.xml"
    started = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", *arguments),
            *("-p", "no:cacheprovider", f"--junitxml={report}"),
        ],
        cwd=ROOT,
        env={**os.environ, "CHAOS_EXAMPLES": str(examples)},
        capture_output=True,
        text=True,
    )
    outcome = Outcome(name, seconds=time.monotonic() - started)
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if "skipped" in kinds:
            continue
        outcome.tried += weight
        outcome.survived += 0 if kinds & {"failure", "error"} else weight
    if outcome.lost or not outcome.tried:
        outcome.losses = (done.stdout[-20_000:],)
        outcome.tried = max(1, outcome.tried)
    return outcome
