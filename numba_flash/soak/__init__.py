"""Trying the tests' properties on random cases for a given time: `python -m numba_flash soak`."""
