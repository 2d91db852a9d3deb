"""A shorter way for the calls that are made most: on arrays of CuPy or of torch, with few options.

It does what `plan.answer` does, and nothing that these calls do not need: one lookup, the allocations, the launches.
That spares a fifth to a third of what such a call costs the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba_flash.arrays import CUPY, TORCH, describe, give_back
from numba_flash.plan import REMEMBERED, planned

SHORTCUTS: dict[tuple[Any, ...], Callable[[list[int]], list[Any]]] = {}


def short_answer(planner: Any, settings: tuple[Any, ...], operands: tuple[Any, ...]) -> list[Any]:
    """The results of a call on three or six arrays, as the kind of the first, on the current stream.

    The settings are kernel, what is wrong with the stream (nothing), return_lse or deterministic, causal and q_offset.
    Their types are looked at, too: as a key, 1 is True.
    """
    kernel, _, flag, causal, q_offset = settings
    q, k, v, *others = operands
    kind = type(q)
    library = CUPY if kind is CUPY.kind else TORCH
    short = (
        kind is type(k) is type(v) is library.kind and (q_offset is None or type(q_offset) is int)
        and type(flag) is type(causal) is bool and type(kernel) is str
    )  # fmt: skip
    if others:
        do, o, lse = others
        short = short and kind is type(do) is type(o) is type(lse)
    if not short:
        return first_answer(planner, settings, operands, (), [])
    addresses, seen = library.glance(q, k, v)
    if others:
        more, also = library.glance(do, o, lse)
        addresses += more
        seen += also
    run = SHORTCUTS.get((planner, settings, seen))
    return run(addresses) if run else first_answer(planner, settings, operands, seen, addresses)


def first_answer(
    planner: Any, settings: tuple[Any, ...], operands: tuple[Any, ...], seen: tuple[Any, ...], addresses: list[int]
) -> list[Any]:
    """The same the first time; and always where there is no short way, or where a kernel reads a copy of an array."""
    arrays, read, descriptions = describe(operands)
    plan = planned(planner, settings, descriptions)
    shortcut = getattr(plan, "shortcut", None)
    if shortcut and read == addresses:
        if len(SHORTCUTS) >= REMEMBERED:
            SHORTCUTS.clear()
        SHORTCUTS[planner, settings, seen] = shortcut()
    return list(give_back(plan.run(arrays, read, None), operands[0]))
