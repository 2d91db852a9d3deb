"""The rungs as the host sees them: tile sizes, when each can run, its launches and traffic; no numba.

The kernels themselves are the pages of `numba_flash.kernels`. See `numba_flash.ladder` for their order.
"""
