"""Faults of machines and data, tried on the shipped recipes.

    make chaos          every fault, many times; three quarters of an hour
    pytest tests/test_chaos.py      each a few times

A fault survives when the run ends with one sentence and the restarted run
gives what an undisturbed run gives, or when nobody notices it at all.
"""
