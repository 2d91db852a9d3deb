"""Timing kernels beside their peers on a GPU: `python -m numba_flash.bench FOLDER`."""
