"""`cuda.syncthreads` and its reductions."""

from __future__ import annotations

from typing import Any

from .collectives import exchange_block
from .named_barriers import refuse_barrier_of_the_block


def syncthreads() -> None:
    """Wait for all threads of the block; a thread that has returned, or waits at another line, is an error."""
    refuse_barrier_of_the_block()
    exchange_block(None, name="syncthreads")


def syncthreads_count(predicate: Any) -> int:
    """The number of threads whose predicate is not 0."""
    refuse_barrier_of_the_block()
    return exchange_block(bool(predicate), name="syncthreads_count", combine=sum)


def syncthreads_and(predicate: Any) -> int:
    """1 if no thread's predicate is 0, otherwise 0."""
    refuse_barrier_of_the_block()
    return int(exchange_block(bool(predicate), name="syncthreads_and", combine=all))


def syncthreads_or(predicate: Any) -> int:
    """1 if some thread's predicate is not 0, otherwise 0."""
    refuse_barrier_of_the_block()
    return int(exchange_block(bool(predicate), name="syncthreads_or", combine=any))
