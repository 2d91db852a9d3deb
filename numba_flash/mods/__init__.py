"""A user's score_mod or mask_mod: a Python function of a score and its place, read, checked and made part of a kernel.

    score_mod(score, b, h, i, j) -> score        mask_mod(b, h, i, j) -> bool

`b` counts the flattened leading axes, `h` query heads, `i` and `j` rows and columns of the score matrix. The function
takes three steps, each of which is an abstract syntax tree that could be printed as Python:

- `resolve` finds its source, and puts numbers and functions of one expression in the place of all names from outside:
  what it closes over now is what it means
- `differentiate` makes, of a score_mod, the function of value and derivative
- `translate` gives every expression a kind (bool, int or real), and makes reals of literals and of ints among reals,
  so that nothing computes in float64 but what is float64

What comes out keeps the places of the user's lines: a debugger steps through them in the simulator.
"""

from numba_flash.mods.mod import PARAMETERS, Mod, Refused, Words, read_mod

__all__ = ["PARAMETERS", "Mod", "Refused", "Words", "read_mod"]
