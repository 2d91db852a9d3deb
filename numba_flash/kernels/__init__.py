"""The rungs: one kernel file each. See `numba_flash.ladder` for their order."""
