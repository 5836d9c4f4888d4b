"""Every key and every run option with values of every kind.

`test_configuration_fuzz` draws them; here none is left to chance.
"""

import itertools
import os

import pytest
from test_configuration_fuzz import (
    EXAMPLES,
    NUMBERS,
    RECIPES,
    WORDS,
    check,
    keys_of,
    line_of,
    outcome,
)

from muselq_modules.configuration import RUN_OPTIONS

# Minutes of work: `make chaos`.
CASES = [
    (recipe, name)
    for recipe in RECIPES
    if "CHAOS_EXAMPLES" in os.environ
    for name in sorted({*keys_of(recipe), *RUN_OPTIONS})
]
VALUES = itertools.cycle([*NUMBERS, *WORDS])


@pytest.mark.parametrize("recipe, name", CASES)
def test_values(recipe, name):
    for text in itertools.islice(VALUES, max(1, EXAMPLES // 50)):
        check(recipe, [f"--{name}={text}"], name, text)


@pytest.mark.parametrize("recipe, name", CASES)
def test_abbreviations_are_refused(recipe, name):
    names = {*keys_of(recipe), *RUN_OPTIONS}
    for cut in {name[:-1], name[: len(name) // 2]} - names:
        line = line_of(recipe, name, [f"--{cut}", "1"])
        assert outcome(recipe, line) is None, cut
