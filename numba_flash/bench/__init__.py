"""Timing the ladder's kernels beside their peers on a GPU: `python -m numba_flash bench`."""
