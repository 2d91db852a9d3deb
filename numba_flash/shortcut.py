"""A shorter way for the calls that are made most: on arrays of CuPy or of torch, with no option that is an array.

It does what `plan.answer` does, and nothing that these calls do not need: one lookup, the allocations, the launches.
That spares a fifth to a third of what such a call costs the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numba_flash.arrays import SHORT, describe, give_back
from numba_flash.plan import REMEMBERED, planned

SHORTCUTS: dict[tuple[Any, ...], Callable[[list[int]], list[Any]]] = {}


def short_answer(planner: Any, settings: tuple[Any, ...], operands: tuple[Any, ...]) -> list[Any]:
    """The results of a call on three or six arrays of the same type, one of SHORT, on the current stream.

    The settings are of the types that they should be of: 1 would be taken for True.
    """
    glance = SHORT[type(operands[0])].glance
    if len(operands) == 3:
        addresses, seen = glance(*operands)
    else:
        addresses, seen = glance(*operands[:3])
        more, others = glance(*operands[3:])
        addresses += more
        seen += others
    run = SHORTCUTS.get((planner, settings, seen))
    return run(addresses) if run else first_answer(planner, settings, operands, seen, addresses)


def first_answer(
    planner: Any, settings: tuple[Any, ...], operands: Sequence[Any], seen: tuple[Any, ...], addresses: list[int]
) -> list[Any]:
    """The same the first time; and always for arrays in host memory, or of which a kernel reads a copy."""
    arrays, read, descriptions = describe(operands)
    plan = planned(planner, settings, descriptions)
    shortcut = getattr(plan, "shortcut", None)
    if shortcut and read == addresses:
        if len(SHORTCUTS) >= REMEMBERED:
            SHORTCUTS.clear()
        SHORTCUTS[planner, settings, seen] = shortcut()
    return list(give_back(plan.run(arrays, read, None), operands[0]))
