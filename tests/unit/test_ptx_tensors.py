"""Tensor copies: twins and instructions against NumPy, and what can go wrong."""

import ml_dtypes
import numpy as np
import pytest
from numba import cuda, types

from numba_flash import simulator
from numba_flash.arrays import read
from numba_flash.device.boxes import write_map
from numba_flash.ptx import (
    acquire_map,
    commit_stores,
    elect,
    fence_shared,
    fetch_add,
    global_view,
    load_box,
    map_address,
    mbarrier_expect,
    mbarrier_init,
    mbarrier_wait,
    publish_mbarriers,
    release_maps,
    shared_address,
    shared_tile,
    store_box,
    wait_stores,
)
from numba_flash.runtime import Kernel, Launch, Written, launch, map_scratch, tensor_map

from .helpers import in_simulator
from .warpgroup_kernels import box_kernel, in_block, skip_without_warpgroups, swizzled

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}

# Shape and corner of a box of 128 bytes by `rows`, the slowest axis first; some reach beyond the tensor, or begin
# before it and are stored from 0 on: a store that begins below that is an illegal instruction.
BOXES = [
    ("float16", (40, 128), (0, 64), 16),
    ("bfloat16", (40, 72), (33, 64), 32),
    ("float32", (20, 32), (-3, 0), 8),
    ("float16", (3, 40, 64), (2, 8, 0), 24),
    ("float32", (2, 3, 9, 40), (1, 2, 4, 32), 8),
    ("bfloat16", (2, 2, 2, 9, 8), (1, 0, 1, -4, 0), 16),
]


def copy_box(where, dtype, shape, corner, rows, how, landing="late"):
    """The tensor, what lies in shared memory, what became of another tensor of ones, and the box with zeros beyond."""
    skip_without_warpgroups(where)
    x = np.random.default_rng(rows).standard_normal(shape).astype(KINDS[dtype])
    given, y = where.to_device(x), where.to_device(np.ones_like(x))
    words = where.to_device(np.zeros(rows * 32, np.uint32))
    source, target = read(given), read(y)
    maps = [tensor_map(z, rows) for z in (source, target)]
    scratch = map_scratch(source, 1, 2)
    corners = corner[::-1], stored_at(corner)[::-1]
    args = (source, maps[0], Written(target), maps[1], Written(read(words)), Written(scratch), *corners)
    launch(Launch(box_kernel(rows, how), 1, args))
    box = np.zeros((rows, 128 // x.itemsize), x.dtype)
    for place in np.ndindex(box.shape):
        at = (*corner[:-2], corner[-2] + place[0], corner[-1] + place[1])
        if all(0 <= i < n for i, n in zip(at, shape, strict=True)):
            box[place] = x[at]
    return x, where.to_numpy(words), where.to_numpy(y), box


def stored_at(corner):
    """Where a box from a corner on goes to."""
    return tuple(max(x, 0) for x in corner)


def with_box(y, corner, box):
    """A tensor with the part of a box that it has room for."""
    *outer, row, column = stored_at(corner)
    place = (*outer, slice(row, row + box.shape[0]), slice(column, column + box.shape[1]))
    y = y.copy()
    rows, columns = y[place].shape
    y[place] = box[:rows, :columns]
    return y


@pytest.mark.parametrize(("dtype", "shape", "corner", "rows"), BOXES)
def test_boxes(kernels, dtype, shape, corner, rows):
    x, words, y, box = copy_box(kernels, dtype, shape, corner, rows, "store")
    assert np.array_equal(words, swizzled(box))
    assert np.array_equal(y, with_box(np.ones_like(x), corner, box))


def test_boxes_are_added(kernels):
    dtype, shape, corner, rows = BOXES[2]
    x, _, y, box = copy_box(kernels, dtype, shape, corner, rows, "add")
    assert np.array_equal(y, with_box(np.ones_like(x), corner, box + 1))


def test_each_warp_elects_one_lane(kernels):
    skip_without_warpgroups(kernels)

    def vote(counter, chosen):
        tid = cuda.threadIdx.x
        if elect():
            global_view(chosen, 0, types.int32)[fetch_add(global_view(counter, 0, types.int32), 0, 1)] = tid // 32

    counter, chosen = (kernels.to_device(np.zeros(n, np.float32)) for n in (1, 8))
    launch(Launch(Kernel.of(vote, 128), 2, (Written(read(counter)), Written(read(chosen)))))
    assert kernels.to_numpy(counter).view(np.int32) == 8
    assert sorted(kernels.to_numpy(chosen).view(np.int32)) == [0, 0, 1, 1, 2, 2, 3, 3]


class TestMaps:
    """Tensor maps that nobody has written, released or acquired, and boxes that cannot be."""

    pytestmark = in_simulator

    def start(self, body, x=None, rows=8, writable=True, **how):
        """body(view of the maps, pointer, words, barrier), in one thread, with a barrier."""
        x = np.zeros((16, 64), np.float16) if x is None else x
        scratch = np.zeros((2, 16))
        words = simulator.tensor_copies.encode(2, (64, 16), (128,), (64, rows))

        def kernel(maps, pointer):
            barrier = shared_address(2048)
            mbarrier_init(barrier, 1)
            body(global_view(maps, 0, types.uint64), pointer, words, barrier)

        args = simulator.Pointer(scratch, writable=True), simulator.Pointer(x, writable=writable)
        in_block(kernel, threads=1, args=args, **how)
        return x

    @staticmethod
    def ready(maps, pointer, words):
        write_map(maps, 0, words, pointer)
        release_maps()
        acquire_map(maps, 0)
        publish_mbarriers()

    def test_no_words(self):
        with pytest.raises(simulator.MemoryFault, match="no words of a tensor map"):
            self.start(lambda maps, pointer, words, barrier: map_address(maps, 0, pointer))

    def test_not_on_64_bytes(self):
        with pytest.raises(simulator.MemoryFault, match="no multiple of 64"):
            self.start(lambda maps, pointer, words, barrier: map_address(maps, 4, pointer))

    def test_not_released(self):
        def body(maps, pointer, words, barrier):
            write_map(maps, 0, words, pointer)
            acquire_map(maps, 0)

        with pytest.raises(simulator.MemoryFault, match="no tensor map has been released"):
            self.start(body)

    def test_not_acquired(self):
        def body(maps, pointer, words, barrier):
            write_map(maps, 0, words, pointer)
            release_maps()
            publish_mbarriers()
            load_box(shared_address(0), maps, 0, (0, 0), barrier)

        with pytest.raises(simulator.MemoryFault, match="has not acquired the tensor map"):
            self.start(body)

    def test_barrier_not_published(self):
        def body(maps, pointer, words, barrier):
            write_map(maps, 0, words, pointer)
            release_maps()
            acquire_map(maps, 0)
            load_box(shared_address(0), maps, 0, (0, 0), barrier)

        with pytest.raises(simulator.MemoryFault, match="has not been published"):
            self.start(body)

    @pytest.mark.parametrize(
        ("offset", "corner", "error", "match"),
        [
            (64, (0, 0), simulator.MemoryFault, "no multiple of 128"),
            (3584, (0, 0), simulator.MemoryFault, "not in the 4096 of shared memory"),
            (0, (0, 0, 0), ValueError, "3 coordinates of a tensor with 2 axes"),
        ],
    )
    def test_boxes_that_cannot_be_copied(self, offset, corner, error, match):
        def body(maps, pointer, words, barrier):
            self.ready(maps, pointer, words)
            load_box(shared_address(offset), maps, 0, corner, barrier)

        with pytest.raises(error, match=match):
            self.start(body)

    def test_a_tensor_that_is_larger_than_its_memory(self):
        def body(maps, pointer, words, barrier):
            self.ready(maps, pointer, words)
            load_box(shared_address(0), maps, 0, (0, 8), barrier)

        with pytest.raises(simulator.MemoryFault, match="cannot read all of its elements"):
            self.start(body, x=np.zeros((15, 64), np.float16))

    def test_a_tensor_that_may_not_be_written(self):
        def body(maps, pointer, words, barrier):
            self.ready(maps, pointer, words)
            store_box(shared_address(0), maps, 0, (0, 0))

        with pytest.raises(simulator.MemoryFault, match="no multiple of 16, or read-only"):
            self.start(body, writable=False)

    def test_a_store_that_begins_before_the_tensor(self):
        def body(maps, pointer, words, barrier):
            self.ready(maps, pointer, words)
            store_box(shared_address(0), maps, 0, (0, -1))

        with pytest.raises(simulator.MemoryFault, match="only loads may begin below 0"):
            self.start(body)

    @pytest.mark.parametrize("landing", ["late", "early"])
    def test_stores_take_what_was_fenced(self, landing):
        """And late ones what is there at the wait, even if that was written behind them."""

        def body(maps, pointer, words, barrier):
            self.ready(maps, pointer, words)
            tile = shared_tile(0, (8, 64), types.float16)
            tile[...] = 1
            fence_shared()
            tile[...] = 2
            store_box(shared_address(0), maps, 0, (0, 0))
            commit_stores()
            fence_shared()
            wait_stores(0)

        y = self.start(body, landing=landing)
        assert (y[:8] == (1 if landing == "early" else 2)).all() and (y[8:] == 0).all()

    @pytest.mark.parametrize("fences", [0, 1])
    def test_the_thread_that_has_written_fences(self, fences):
        """Not the one that stores the box."""
        x, words = np.zeros((16, 64), np.float16), simulator.tensor_copies.encode(2, (64, 16), (128,), (64, 8))

        def body(maps, pointer):
            tid, maps = cuda.threadIdx.x, global_view(maps, 0, types.uint64)
            if tid == 0:
                mbarrier_init(shared_address(2048), 1)
                self.ready(maps, pointer, words)
            cuda.syncthreads()
            if tid == 1:
                for n in range(512):
                    shared_tile(0, (512,), types.float16)[n] = n
            if tid == fences:
                fence_shared()
            cuda.syncthreads()
            if tid == 0:
                store_box(shared_address(0), maps, 0, (0, 0))
                commit_stores()
                wait_stores(0)

        args = simulator.Pointer(np.zeros((2, 16)), writable=True), simulator.Pointer(x, writable=True)
        in_block(body, threads=2, args=args)
        if fences == 0:
            assert np.isnan(x[:8]).all()
        else:
            assert sorted(x[:8].ravel()) == list(range(512))

    def test_loads_land_when_they_are_waited_for(self):
        def body(maps, pointer, words, barrier):
            self.ready(maps, pointer, words)
            tile = shared_tile(0, (8, 64), types.float16)
            mbarrier_expect(barrier, 1024)
            load_box(shared_address(0), maps, 0, (0, 0), barrier)
            assert np.isnan(tile).all()
            mbarrier_wait(barrier, 0)
            assert (tile == 0).all()

        self.start(body)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"shape": (64, 0)},
            {"box": (32, 8)},
            {"box": (64, 257)},
            {"strides": (120,)},
            {"strides": (0,)},
            {"strides": ()},
        ],
        ids=str,
    )
    def test_maps_that_cannot_be(self, wrong):
        right = {"shape": (64, 16), "strides": (128,), "box": (64, 8)}
        simulator.tensor_copies.encode(2, **right)
        with pytest.raises(ValueError, match="no tensor map has|no rows of 128 bytes"):
            simulator.tensor_copies.encode(2, **{**right, **wrong})
