"""Kernels of warpgroups as the host sees them: tile sizes, what they refuse, tensor maps, and rows that are padded."""

from types import SimpleNamespace

import numpy as np
import pytest

from numba_flash import flash_attention, matmul, simulator
from numba_flash.arrays import read
from numba_flash.config import ROW_BYTES, SHARED_BYTES, WarpgroupTiles, WgmmaTiles, device_of_arch
from numba_flash.ladder import FORWARD, LADDER, MATMUL
from numba_flash.matmul_problem import matmul_request
from numba_flash.problem import Reasons, fits_boxes
from numba_flash.rungs import flash3_forward, matmul_wgmma
from numba_flash.rungs.passes import pad
from numba_flash.runtime import TensorMap, launch, signature, tensor_map
from numba_flash.runtime.gpu import several
from numba_flash.runtime.tensor_map import words
from numba_flash.specimen import EVERY_OPTION, specimen
from numba_flash.testing.layouts import LAYOUTS
from numba_flash.testing.tiles import broken, warpgroup_rules, warpgroup_tiles, wgmma_rules

from .helpers import in_simulator

HOPPER = device_of_arch("sm_90a")
HALF = np.dtype(np.float16)


def rung_named(name):
    return next(rung for rung in LADDER if rung.name == name)


def test_tables():
    """Every head dimension has legal tiles that fit shared memory, and some that leave registers to score options."""
    for width, choices in flash3_forward.CONFIGS.items():
        assert not choices[-1].full
        for t in choices:
            assert max(t.D, t.DV) == width and broken(warpgroup_rules(t)) == []
            assert flash3_forward.shared_bytes(t) <= SHARED_BYTES["sm_90"]
    for choices in matmul_wgmma.CONFIGS.values():
        for t in choices:
            assert broken(wgmma_rules(t)) == [] and matmul_wgmma.shared_bytes(t) <= SHARED_BYTES["sm_90"]


@pytest.mark.parametrize("d", [1, 64, 65, 97, 193, 256])
def test_head_dimensions_are_padded_each_on_its_own(d):
    tiles = flash3_forward.tiles_of(specimen(FORWARD, "float16", d=d, dv=40))
    assert min(n for n in flash3_forward.CONFIGS if n >= d) == tiles.D and tiles.DV == 64
    plain = flash3_forward.tiles_of(specimen(FORWARD, "float16", d=d, dv=40, **EVERY_OPTION))
    assert not plain.full and plain.Bc <= tiles.Bc


@pytest.mark.parametrize(
    ("tiles", "products", "rule"),
    [
        (WarpgroupTiles(96, 16, 64, 64), WgmmaTiles(64, 64, 2), "one to three warpgroups"),
        (WarpgroupTiles(256, 16, 64, 64), WgmmaTiles(64, 64, 2), "one to three warpgroups"),
        (WarpgroupTiles(64, 24, 64, 64), WgmmaTiles(64, 64, 2), "16 at a time"),
        (WarpgroupTiles(64, 16, 272, 64), WgmmaTiles(64, 64, 2), "whole steps of depth"),
        (WarpgroupTiles(64, 16, 64, 64, 0), WgmmaTiles(64, 64, 2), "there are stages"),
        (WarpgroupTiles(64, 16, 64, 64), WgmmaTiles(64, 96, 2), "in whole panels"),
        (WarpgroupTiles(64, 16, 64, 64), WgmmaTiles(64, 64, 2, BK=32), "a panel deep"),
    ],
)
def test_tiles_that_are_not_legal(tiles, products, rule):
    with pytest.raises(ValueError, match=rule), warpgroup_tiles(tiles, products):
        pass


@pytest.mark.parametrize("arch", SHARED_BYTES)
def test_only_sm_90a(arch):
    for name, operation in (("matmul_wgmma", MATMUL), ("flash3_forward", FORWARD)):
        reasons = rung_named(name).why_not(specimen(operation, "float16"), device_of_arch(arch))
        wanted = device_of_arch(arch).arch
        assert reasons == ([] if arch == "sm_90" else [f"this GPU is {wanted} (needs sm_90a)"])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"contiguous": (None, "N")}, "neither rows nor columns of a lie together and start on 16 bytes, each once"),
        ({"contiguous": ("M", None)}, "neither rows nor columns of b lie together and start on 16 bytes, each once"),
        ({"N": 68}, "rows of the product, 68 float16, do not start on 16 bytes"),
        ({"out_dtype": "float64"}, "out_dtype=float64 (needs float16 or float32)"),
        ({"out_dtype": "bfloat16"}, "out_dtype=bfloat16 (needs float16 or float32)"),
    ],
)
def test_products_that_cannot_be(more, reason):
    problem = specimen(MATMUL, "float16", **{"N": 64, **more})
    assert rung_named("matmul_wgmma").why_not(problem, HOPPER) == [reason]


def test_all_reasons_are_one_error():
    q = np.zeros((1, 2, 320), np.float32)
    with pytest.raises(ValueError, match=r"'flash3_forward' cannot run: .*(needs float16 or bfloat16).*d=320 > 256"):
        flash_attention(q, q, q, kernel="flash3")


@pytest.mark.parametrize(
    ("layouts", "axes"),
    [
        (("contiguous", "contiguous"), ("K", "N")),
        (("columns", "padded"), ("M", "N")),
        (("padded", "columns"), ("K", "K")),
        (("strided", "misaligned"), (None, None)),
        (("backward", "broadcast"), (None, "N")),
    ],
)
def test_which_axis_lies_together(layouts, axes):
    a, b = (read(LAYOUTS[how](np.ones((3, 16, 16), HALF))) for how in layouts)
    ((problem, _, _),) = matmul_request(Reasons("matmul"), a, b, None).problems
    assert problem.contiguous == axes


@pytest.mark.parametrize(
    ("shape", "strides", "fits"),
    [
        ((2, 3, 5, 8), (120, 40, 8, 1), True),
        ((2, 3, 5, 9), (240, 80, 16, 1), True),
        ((2, 3, 5, 9), (135, 45, 9, 1), False),
        ((1, 1, 5, 8), (7, 3, 8, 1), True),  # axes of one element have no stride
        ((2, 3, 5, 8), (0, 40, 8, 1), False),
        ((2, 3, 5, 8), (120, 40, 8, 2), False),
        ((2, 3, 5, 1), (120, 40, 8, 5), True),
    ],
)
def test_what_fits_boxes(shape, strides, fits):
    x = np.zeros(4096, HALF)
    x = x[(-x.ctypes.data % 16) // 2 :]
    array = np.lib.stride_tricks.as_strided(x, shape, [2 * s for s in strides])
    assert fits_boxes(read(array)) is fits
    assert not fits_boxes(read(np.lib.stride_tricks.as_strided(x[1:], shape, [2 * s for s in strides])))


def test_a_map_says_how_a_tensor_lies():
    x = np.zeros((4, 9, 3, 64), np.float16).swapaxes(1, 2)  # (B, H, N, d) over memory (B, N, H, d)
    what = tensor_map(read(x), 16)
    assert what == TensorMap("float16", (64, 9, 3, 4), (3 * 128, 128, 27 * 128), (64, 16, 1, 1))
    packed = flash3_forward.by_groups(read(np.zeros((1, 6, 5, 64), np.float16)), 3)
    assert packed.shape == (1, 2, 5, 3, 64) and packed.strides[1:] == (960, 64, 320, 1)
    assert tensor_map(packed, 3, 20).box == (64, 3, 20, 1, 1)
    assert tensor_map(read(np.zeros((0, 8), np.float32)), 8).shape == (8, 1)


def test_axes_of_one_element_get_strides_that_do_not_overlap():
    x = np.lib.stride_tricks.as_strided(np.zeros(64, np.float16), (1, 1, 4, 9), (2, 4, 32, 2))
    assert tensor_map(read(x), 8).strides == (32, 128, 128)


class TestDriver:
    """What the driver is asked, and what becomes of its answer."""

    WHAT = TensorMap("bfloat16", (64, 9), (128,), (64, 8))

    @pytest.fixture
    def asked(self, monkeypatch):
        from cuda.bindings import driver

        calls = []

        def encode(*args):
            calls.append(args)
            return calls_error[0], SimpleNamespace(opaque=list(range(16)))

        calls_error = [driver.CUresult.CUDA_SUCCESS]
        monkeypatch.setattr(driver, "cuTensorMapEncodeTiled", encode)
        words.cache_clear()
        yield calls, calls_error
        words.cache_clear()

    def test_words(self, asked):
        calls, _ = asked
        assert several(self.WHAT) == tuple(range(16)) == several(self.WHAT)
        ((kind, rank, address, shape, strides, box, steps, *_),) = calls
        assert kind.name.endswith("BFLOAT16") and rank == 2 and address % 128 == 0 < address
        assert [[int(n) for n in x] for x in (shape, strides, box, steps)] == [[64, 9], [128], [64, 8], [1, 1]]
        assert signature((self.WHAT, 1)) == "L16,L"

    def test_a_driver_that_refuses(self, asked):
        from cuda.bindings import driver

        asked[1][0] = driver.CUresult.CUDA_ERROR_INVALID_VALUE
        with pytest.raises(RuntimeError, match="encodes no tensor map of TensorMap.*INVALID_VALUE"):
            several(self.WHAT)


class TestSimulated:
    pytestmark = in_simulator

    @pytest.mark.parametrize("how", LAYOUTS)
    def test_pad(self, how):
        x = LAYOUTS[how](np.random.default_rng(0).standard_normal((2, 3, 41, 13)).astype(np.float16))
        y = read(np.full((2, 3, 41, 16), np.nan, np.float16))
        with simulator.count_traffic() as counted:
            for what in pad.launches(read(x), y):
                launch(what)
        assert np.array_equal(y.data[..., :13], x) and (y.data[..., 13:] == 0).all()
        assert counted.total == pad.traffic(read(x), y)

    def test_no_depth_gives_zeros(self):
        a, b = np.zeros((5, 0), np.float16), np.zeros((0, 16), np.float16)
        assert np.array_equal(matmul(a, b, kernel="matmul_wgmma"), np.zeros((5, 16)))

    def test_maps_fill_rows_of_128_bytes(self):
        assert simulator.tensor_copies.ROW == ROW_BYTES
