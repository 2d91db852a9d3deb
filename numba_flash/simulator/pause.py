"""Giving way to other threads."""

from __future__ import annotations

from .gate import Gate, park


class Pause(Gate):
    """Always open: its thread goes on in the next scheduling round."""

    def is_open(self) -> bool:
        """Yes."""
        return True


def nanosleep(ns: int) -> None:
    """Let the other threads run before this one goes on, however long `ns` is."""
    park(Pause("nanosleep"))
