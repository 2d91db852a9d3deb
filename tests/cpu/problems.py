"""Problems for the CPU's passes, and the definition's answers to them."""

import numpy as np

from numba_flash import reference
from numba_flash.cpu.backward import flash2_backward
from numba_flash.cpu.forward import flash2_forward
from numba_flash.testing.naive import naive_attention, naive_gradients
from numba_flash.testing.tolerance import assert_close

EVERYTHING = 10**9


class Problem:
    """Operands and scoring rules of one call. `first` and `last` default to the whole matrix."""

    def __init__(self, B=1, Hq=2, Hk=1, Nq=97, Nk=131, d=16, dv=16, dtype="float32", seed=0, **scoring):
        rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.q = rng.standard_normal((B, Hq, Nq, d)).astype(dtype)
        self.k = rng.standard_normal((B, Hk, Nk, d)).astype(dtype)
        self.v = rng.standard_normal((B, Hk, Nk, dv)).astype(dtype)
        self.do = rng.standard_normal((B, Hq, Nq, dv)).astype(dtype)
        self.dlse = None
        self.scoring = {"scale": d**-0.5, "first": -EVERYTHING, "last": EVERYTHING, "q_offset": 0, **scoring}

    def forward(self):
        """O, LSE from the CPU."""
        return flash2_forward(self.q, self.k, self.v, **self.scoring)

    def backward(self):
        """dQ, dK, dV from the CPU, with O and LSE from the CPU."""
        return flash2_backward(self.do, self.q, self.k, self.v, *self.forward(), dlse=self.dlse, **self.scoring)

    @property
    def band(self):
        """(Nq, Nk) bool: inside first and last?"""
        i, j = np.arange(self.q.shape[2])[:, None], np.arange(self.k.shape[2])
        return (i + self.scoring["first"] <= j) & (j <= i + self.scoring["last"])

    @property
    def options(self):
        """The scoring rules in the words of `numba_flash.reference`."""
        options = {key: value for key, value in self.scoring.items() if key not in ("first", "last")}
        mask = options.pop("mask", None)
        return {**options, "mask": self.band if mask is None else self.band & mask}

    def check_forward(self):
        """The forward is within the tolerance rule."""
        operands = self.q, self.k, self.v
        exact, naive = (f(*operands, **self.options) for f in (reference.attention, naive_attention))
        for out, ref, near, what in zip(self.forward(), exact, naive, ("o", "lse"), strict=True):
            assert_close(out, ref, near, self.dtype, what)

    def check_backward(self):
        """The backward is within the tolerance rule."""
        operands = self.do, self.q, self.k, self.v, self.dlse
        exact, naive = (f(*operands, **self.options) for f in (reference.attention_vjp, naive_gradients))
        for out, ref, near, what in zip(self.backward(), exact, naive, ("dq", "dk", "dv"), strict=True):
            assert_close(out, ref, near, self.dtype, what)

    def check(self):
        """Both passes are within the tolerance rule."""
        self.check_forward()
        self.check_backward()


def assert_same(results, others):
    """The same bits, NaN included."""
    for x, y in zip(results, others, strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert x.tobytes() == y.tobytes()
