"""What a simulated kernel can do wrong that hardware would answer with a hang, a crash or a silent wrong number."""


class DivergentBarrier(RuntimeError):  # noqa: N818
    """Threads that must meet at one barrier or collective have returned, or wait at another."""


class Deadlock(RuntimeError):  # noqa: N818
    """Every thread of a block waits, or has returned, and nothing is left to wake one."""


class MemoryFault(IndexError):  # noqa: N818
    """An access to bytes that are not an element of the array, misaligned, or read-only."""
