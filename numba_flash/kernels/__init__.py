"""The kernels: a page each, with its card. How they are launched is in `numba_flash.rungs`."""
