"""Faults of machines and data, a few times each; all of them: `make chaos`."""

import pytest
from chaos import (
    arithmetic,
    data,
    endurance,
    job_faults,
    kills,
    machine,
    processes,
)
from chaos.registry import FAULTS, Place, try_fault

MODULES = (
    arithmetic,
    data,
    endurance,
    job_faults,
    kills,
    machine,
    processes,
)
QUICK = [fault for fault in FAULTS if fault.quick]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where they run: one process that has imported everything."""
    place = Place(tmp_path_factory.mktemp("chaos"))
    yield place
    place.close()


def test_every_module_has_registered_its_faults():
    assert len(FAULTS) == len({fault.name for fault in FAULTS}) > 25
    assert {fault.trial.__module__ for fault in FAULTS} == {
        module.__name__ for module in MODULES
    }


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.trial.__name__)
def test_nothing_is_lost(place, fault):
    outcome = try_fault(place, fault, fault.quick)
    assert not outcome.lost, "\n".join(outcome.losses)
