"""One launch of one kernel: argument types, and what a kernel may do with its arguments."""

import numpy as np
import pytest
from numba import cuda, types

from numba_flash import simulator
from numba_flash.arrays import read
from numba_flash.ptx import global_view
from numba_flash.runtime import Kernel, Launch, Written, launch, signature

from .helpers import in_simulator


def test_signature():
    x = read(np.zeros(3))
    args = (x, Written(x), None, 5, np.int64(5), (1, 2, 3), np.float32(1), np.float64(1))
    assert signature(args) == "P,P,P,L,L,L3,F,D"


class TestLaunch:
    pytestmark = in_simulator

    @staticmethod
    def double(X, Y, count, factor):
        i = cuda.blockIdx.x * 4 + cuda.threadIdx.x
        if i < count:
            global_view(Y, 0, types.float32)[i] = factor * global_view(X, 0, types.float32)[i]

    def test_a_grid_of_blocks(self):
        x, y = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)
        launch(Launch(Kernel.of(self.double, 4), 2, (read(x), Written(read(y)), 6, np.float32(2))))
        assert np.array_equal(y, 2 * x)

    def test_no_blocks(self):
        launch(Launch(Kernel.of(self.double, 4), 0, ()))

    def test_only_what_is_marked_is_written(self):
        x, y = np.zeros(4, np.float32), np.zeros(4, np.float32)
        with pytest.raises(simulator.MemoryFault, match="read-only"):
            launch(Launch(Kernel.of(self.double, 4), 1, (read(x), read(y), 4, np.float32(2))))

    def test_beyond_the_end(self):
        x, y = np.zeros(6, np.float32), np.zeros(6, np.float32)
        with pytest.raises(simulator.MemoryFault, match="outside of the array"):
            launch(Launch(Kernel.of(self.double, 4), 2, (read(x), Written(read(y)), 8, np.float32(2))))

    def test_kernels_have_the_names_of_their_functions(self):
        assert Kernel.of(self.double, 4).name == "double"
