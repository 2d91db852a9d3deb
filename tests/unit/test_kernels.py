"""The tables of tile sizes are legal, and the passes that kernels share do what the definition says."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from numba_flash import flash_attention, flash_attention_backward, reference, simulator
from numba_flash.arrays import ITEMSIZE, read
from numba_flash.config import SHARED_BYTES, SIMULATOR, GradientTiles, Tiles, device_of_arch
from numba_flash.device.number import number
from numba_flash.ladder import LADDER
from numba_flash.problem import AttentionProblem, Operands, ScoreOptions, real_of
from numba_flash.rungs import (
    arguments,
    attention_naive,
    attention_one_pass,
    attention_two_pass,
    flash1_backward,
    flash1_forward,
    flash2_backward,
    flash2_forward,
    flash2_mma_backward,
    flash2_mma_forward,
    matmul_mma,
    matmul_registers,
    matmul_tiled,
)
from numba_flash.rungs.passes import collect, convert, delta, merge, rows
from numba_flash.runtime import launch
from numba_flash.specimen import specimen
from numba_flash.testing.tiles import (
    attention_tiles,
    broken,
    forward_rules,
    fragment_rules,
    fragment_tiles,
    gradient_rules,
    key_rules,
    matmul_rules,
    mma_rules,
    query_rules,
    tiny_tiles,
)
from numba_flash.testing.tolerance import assert_close

from .helpers import DTYPES, in_simulator, normal

KB = 1024
MMA_ARCHS = [arch for arch in SHARED_BYTES if arch != "sm_75"]
UNASKED_SHARED_BYTES = 48 * KB  # what every GPU gives a block
RULES = {"forward": forward_rules, "keys": key_rules, "queries": query_rules}
TABLES = {
    "forward": (flash2_forward.CONFIGS, flash2_forward.shared_bytes),
    "keys": (flash2_backward.KEY_CONFIGS, flash2_backward.shared_bytes),
    "queries": (flash2_backward.QUERY_CONFIGS, flash2_backward.shared_bytes),
}
ENTRIES = [
    pytest.param(name, key, tiles, id=f"{name}-{key}-{n}")
    for name, (table, _) in TABLES.items()
    for key, choices in table.items()
    for n, tiles in enumerate(choices)
]


FRAGMENT_TABLES = {
    "forward": (flash2_mma_forward.CONFIGS, flash2_mma_forward.shared_bytes, fragment_rules),
    "keys": (flash2_mma_backward.CONFIGS, flash2_mma_backward.shared_bytes, gradient_rules),
}


def falling(choices, sizes):
    """Could each be taken? Not one that needs more shared memory than another before it that is as `full`."""
    alike = ([size for size, t in zip(sizes, choices, strict=True) if t.full == full] for full in (True, False))
    return all(each == sorted(each, reverse=True) for each in alike)


@pytest.mark.parametrize("name", FRAGMENT_TABLES)
def test_tables_for_tensor_cores(name):
    """Every head dimension has legal tiles that fit every GPU with tensor cores, the largest first."""
    table, shared_bytes, rules = FRAGMENT_TABLES[name]
    assert set(table) == {(4, width) for width in arguments.WIDTHS}
    for (_, width), choices in table.items():
        assert falling(choices, [shared_bytes(tiles, 4) for tiles in choices]) and not choices[-1].full
        assert all(max(tiles.D, tiles.DV) == width and broken(rules(tiles)) == [] for tiles in choices)
    for arch, d, dv, vector in itertools.product(MMA_ARCHS, (1, 33, 128, 256), (1, 64, 65, 256), (True, False)):
        problem = replace(attention_problem(d, dv, "float16"), vector=vector)
        tiles = arguments.choose_tiles(table, shared_bytes, problem, device_of_arch(arch))
        assert tiles is not None and broken(rules(tiles)) == []


@pytest.mark.parametrize(
    ("tiles", "rule"),
    [
        (GradientTiles(32, 24, 32, 32, 1, 2), "a warp owns whole fragments of the scores, in pairs"),
        (GradientTiles(32, 32, 32, 32, 1, 4), "a warp owns whole fragments of dK and dV, in pairs"),
        (GradientTiles(48, 16, 32, 32, 1, 1), "rows of shared tiles are a power of 2 of chunks"),
        (GradientTiles(64, 16, 32, 32, 1, 1), "dQ can be shared by all warps"),
        (GradientTiles(16, 128, 64, 64, 8, 1), "dQ can be shared by all warps"),
        (GradientTiles(32, 32, 32, 32, 1, 1, stages=3), "one or two tiles of queries"),
    ],
)
def test_gradient_tiles_that_are_not_legal(tiles, rule):
    assert rule in broken(gradient_rules(tiles))


@pytest.mark.parametrize("width", arguments.WIDTHS)
@pytest.mark.parametrize("tiles", [GradientTiles(16, 64, 32, 32, 2, 1), GradientTiles(64, 128, 32, 32, 4, 2)], ids=str)
def test_warps_share_dq(tiles, width):
    """Each element has one owner, however many columns there are for so many rows."""
    fitted = arguments.fit_tiles(tiles, width, width)
    groups = fitted.D // fitted.dq_columns
    owners = np.zeros((fitted.Br, fitted.D), int)
    for warp in range(fitted.warps):
        row, column = warp // groups * fitted.dq_rows, warp % groups * fitted.dq_columns
        owners[row : row + fitted.dq_rows, column : column + fitted.dq_columns] += 1
    assert (owners == 1).all() and broken(gradient_rules(fitted)) == []


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_every_head_dimension_at_both_widths_of_arithmetic(name):
    table, _ = TABLES[name]
    assert set(table) == set(itertools.product((4, 8), arguments.WIDTHS))


@pytest.mark.parametrize(("name", "key", "tiles"), ENTRIES)
def test_tiles_are_legal(name, key, tiles):
    itemsize, width = key
    assert max(tiles.D, tiles.DV) == width
    assert min(tiles.Br, tiles.Bc) >= arguments.SMALLEST_TILE
    assert broken(RULES[name](tiles)) == []


@pytest.mark.parametrize(
    ("name", "tiles", "rule"),
    [
        ("forward", Tiles(12, 16, 64, 64, 6, 16), "a thread owns runs of four rows"),
        ("forward", Tiles(8, 32, 128, 128, 4, 32), "a row lives in lanes of one warp"),
        ("forward", Tiles(4, 32, 128, 128, 4, 32), "row groups come in pairs: `make_place`"),
        ("forward", Tiles(64, 128, 64, 64, 16, 8), "S fits"),
        ("forward", Tiles(64, 16, 256, 256, 32, 16), "O fits"),
        ("forward", Tiles(16, 12, 32, 32, 4, 8), "every column has an owner"),
        ("forward", Tiles(18, 8, 32, 32, 4, 8), "every row has an owner"),
        ("keys", Tiles(32, 24, 32, 32, 2, 8), "every key has an owner"),
        ("queries", Tiles(4, 32, 128, 128, 2, 32), "a row lives in lanes of one warp"),
        ("queries", Tiles(16, 8, 16, 32, 4, 8), "a thread owns runs of four columns of a head"),
        ("queries", Tiles(8, 8, 32, 32, 4, 8), "threads are whole warps, at most 1024"),
    ],
)
def test_tiles_that_are_not_legal(name, tiles, rule):
    assert rule in broken(RULES[name](tiles))


@pytest.mark.parametrize("name", TABLES)
def test_tiles_fit_shared_memory(name):
    table, shared_bytes = TABLES[name]
    for (itemsize, _), choices in table.items():
        sizes = [shared_bytes(tiles, itemsize) for tiles in choices]
        assert sizes[0] <= 227 * KB
        assert min(sizes) <= 99 * KB
        assert falling(choices, sizes)


def attention_problem(d, dv, dtype="float32", B=1, Hq=1, Nq=5, Nk=7):
    return AttentionProblem(B, Hq, 1, Nq, Nk, d, dv, dtype, scale=1.0, first=-Nq, last=Nk)


@pytest.mark.parametrize("shared_bytes", [99 * KB, 163 * KB, 227 * KB])
def test_every_head_dimension_finds_tiles(shared_bytes):
    device = type(SIMULATOR)("a GPU", (8, 0), shared_bytes)
    for table, bytes_of in TABLES.values():
        widths = itertools.product((1, 31, 33, 64, 100, 128, 256), (1, 64, 65, 256))
        for (d, dv), dtype, vector in itertools.product(widths, ("float16", "float64"), (True, False)):
            problem = replace(attention_problem(d, dv, dtype), vector=vector)
            tiles = arguments.choose_tiles(table, bytes_of, problem, device)
            assert tiles is not None
            assert d <= tiles.D and dv <= tiles.DV and min(tiles.D, tiles.DV) >= 4 * tiles.CG
            assert tiles.D % (4 * tiles.CG) == 0 == tiles.DV % (4 * tiles.CG)
            assert bytes_of(tiles, ITEMSIZE[problem.real]) <= shared_bytes


MORE_REGISTERS = {
    "elements": {"vector": False},
    "softcap": {"softcap": 1.0, "score": ScoreOptions(softcap=True)},
    "alibi": {"score": ScoreOptions(alibi="float32")},
    "bias": {"score": ScoreOptions(bias="float16")},
    "mask": {"score": ScoreOptions(mask=True)},
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("more", MORE_REGISTERS.values(), ids=MORE_REGISTERS)
def test_tiles_that_take_all_registers_are_for_plain_kernels(name, more):
    table, bytes_of = TABLES[name]
    for (itemsize, width), choices in table.items():
        plain = attention_problem(width, width, {4: "float32", 8: "float64"}[itemsize])
        spare = [tiles for tiles in choices if not tiles.full]
        assert arguments.choose_tiles(table, bytes_of, plain, SIMULATOR) == choices[0]
        assert arguments.choose_tiles(table, bytes_of, replace(plain, **more), SIMULATOR) == spare[0]


def test_why_not():
    def reasons(module, **sizes):
        return module.why_not(attention_problem(**sizes), SIMULATOR)

    small = type(SIMULATOR)("a small GPU", (7, 5), 1 * KB)
    for module in (flash2_forward, flash2_backward):
        assert reasons(module, d=256, dv=256) == []
        assert reasons(module, d=257, dv=300) == ["d=257 > 256", "dv=300 > 256"]
        assert reasons(module, d=4, dv=4, B=2**16, Hq=2**16) == [f"{2**33} blocks > {2**31 - 1}"]
        (reason,) = module.why_not(attention_problem(64, 64), small)
        assert reason == "its tiles need more than the 1024 bytes of shared memory of a small GPU"


BEFORE_FLASH2 = (attention_naive, attention_two_pass, attention_one_pass, flash1_forward, flash1_backward)


@pytest.mark.parametrize("module", BEFORE_FLASH2, ids=lambda module: module.__name__.rpartition(".")[2])
def test_why_not_before_flash2(module):
    every = ScoreOptions(softcap=True, alibi="float32", bias="float16", mask=True)
    options = ("softcap", "alibi_slopes", "bias", "mask")
    assert module.why_not(attention_problem(256, 256), SIMULATOR) == []
    assert module.why_not(replace(attention_problem(257, 300), score=every), SIMULATOR) == [
        *[f"{option} needs flash2 or a later rung" for option in options],
        "d=257 > 256",
        "dv=300 > 256",
    ]
    (reason,) = module.why_not(attention_problem(4, 4, B=2**20, Hq=2**20), SIMULATOR)
    assert reason.endswith(f" blocks > {2**31 - 1}")


@pytest.mark.parametrize("module", [flash1_forward, flash1_backward], ids=["forward", "backward"])
def test_tiles_of_flash1_are_legal(module):
    assert set(module.CONFIGS) == set(itertools.product((4, 8), arguments.WIDTHS))
    for (itemsize, width), tiles in module.CONFIGS.items():
        assert tiles.D == tiles.DV == width and tiles.rows == 1
        assert tiles.threads % 32 == 0 and tiles.threads <= 1024
        assert 32 % tiles.CG == 0  # a row lives in lanes of one warp
        assert module.shared_bytes(tiles, itemsize) <= UNASKED_SHARED_BYTES


def test_matmul_tiles_are_legal():
    for t in matmul_registers.CONFIGS.values():
        assert t.threads % 32 == 0 and broken(matmul_rules(t)) == []
    for table in matmul_mma.CONFIGS.values():
        sizes = [matmul_mma.shared_bytes(t) for t in table]
        assert all(broken(mma_rules(t)) == [] for t in table) and sizes == sorted(sizes, reverse=True)
        assert sizes[-1] <= min(SHARED_BYTES[arch] for arch in MMA_ARCHS)
    for T in matmul_tiled.CONFIGS:
        assert T * T <= 1024


def test_tensor_cores_need_sm_80_and_16_bits():
    (rung,) = (rung for rung in LADDER if rung.name == "matmul_mma")
    for dtype in DTYPES:
        for arch in SHARED_BYTES:
            reasons = rung.why_not(specimen(rung.operation, dtype), device_of_arch(arch))
            wide = [] if dtype in ("float16", "bfloat16") else [f"{dtype} (needs float16 or bfloat16)"]
            assert reasons == wide + [f"this GPU is {arch} (needs sm_80 or later)"] * (arch == "sm_75")


def test_tiles_count_their_threads():
    tiles = Tiles(Br=64, Bc=32, D=64, DV=32, rows=4, CG=8)
    assert (tiles.RG, tiles.threads) == (16, 128)


@pytest.mark.parametrize("dtype", DTYPES)
class TestPasses:
    """Merge and delta in the simulator, on views with gaps, transposed axes and rows that saw no key."""

    pytestmark = in_simulator

    @staticmethod
    def empty(shape, dtype):
        """An output full of NaN."""
        return np.full(shape, np.nan, dtype)

    @staticmethod
    def partial(seed, dtype):
        """o (B, N, dv) and lse (B, N), strided."""
        stored, real = DTYPES[dtype], DTYPES[real_of(dtype)]
        o, lse = normal(seed, 7, 3, 20)[:, :, ::2].swapaxes(0, 1).astype(stored), normal(seed + 1, 3, 14)[:, ::2]
        o, lse = np.asfortranarray(o), 40 * lse.astype(real)
        o[0, seed % 3], lse[0, seed % 3] = 0, -np.inf
        o[1, 3], lse[1, 3] = 0, -np.inf
        return o, lse

    def test_merge(self, dtype):
        (o1, lse1), (o2, lse2) = self.partial(0, dtype), self.partial(5, dtype)
        o, lse = self.empty(o1.shape, o1.dtype), self.empty(lse1.shape, lse1.dtype)
        (what,) = merge.launches(*map(read, (o1, lse1, o2, lse2, o, lse)))
        launch(what)
        o_ref, lse_ref = reference.merge(o1, lse1, o2, lse2)
        o_naive, lse_naive = naive_merge(o1, lse1, o2, lse2)
        assert_close(o, o_ref, o_naive, dtype, "o")
        assert_close(lse, lse_ref, lse_naive, real_of(dtype), "lse")
        assert (o[1, 3] == 0).all() and lse[1, 3] == -np.inf

    @pytest.mark.parametrize("count", [1, 255, 257, 1024, 1025, 2049])
    def test_convert(self, dtype, count):
        x = normal(count, 1, count).astype(DTYPES[real_of(dtype)])
        x[0, 0] = np.inf
        y = self.empty(x.shape, DTYPES[dtype])
        (what,) = convert.launches(read(x), read(y))
        launch(what)
        assert y.tobytes() == x.astype(DTYPES[dtype]).tobytes()

    @pytest.mark.parametrize("dv", [1, 31, 32, 45])
    @pytest.mark.parametrize("has_dlse", [False, True], ids=["", "dlse"])
    def test_delta(self, dtype, dv, has_dlse):
        B, Hq, Nq = 2, 3, 5
        stored, real = DTYPES[dtype], DTYPES[real_of(dtype)]
        do, o = (
            normal(0, B, Nq, Hq, dv).swapaxes(1, 2).astype(stored),
            normal(1, B, Hq, Nq, 2 * dv)[..., ::2].astype(stored),
        )
        dlse = normal(2, B, Nq, Hq).swapaxes(1, 2).astype(real) if has_dlse else None
        out = self.empty((B, Hq, Nq), real)
        problem = attention_problem(dv, dv, dtype, B, Hq, Nq)
        q = read(o)
        operands = Operands(q, q, q, do=read(do), o=read(o), dlse=None if dlse is None else read(dlse))
        (what,) = delta.launches(problem, operands, read(out))
        launch(what)
        rest = 0 if dlse is None else dlse.astype(np.float64)
        ref = (do.astype(np.float64) * o.astype(np.float64)).sum(axis=-1) - rest
        products = do.astype(real) * o.astype(real)
        naive = [products.sum(axis=-1, dtype=real) - rest, np.cumsum(products, axis=-1, dtype=real)[..., -1] - rest]
        assert_close(out, ref, naive, real_of(dtype), "delta")

    @pytest.mark.parametrize("dv", [1, 31, 32, 140])
    @pytest.mark.parametrize("has_dlse", [False, True], ids=["", "dlse"])
    def test_rows(self, dtype, dv, has_dlse):
        """LSE in base 2 and delta of five rows, and of three that there are not; zeros for sums of dQ."""
        B, Hq, Nq, Mq = 2, 3, 5, 8
        stored, real = DTYPES[dtype], DTYPES[real_of(dtype)]
        if real_of(dtype) != "float32":
            pytest.skip("tensor cores add in float32")
        do, o = (normal(n, B, Nq, Hq, dv).swapaxes(1, 2).astype(stored) for n in (0, 1))
        lse, dlse = (normal(n, B, Nq, Hq).swapaxes(1, 2).astype(real) for n in (2, 3))
        lse[0, 1, 2] = -np.inf
        pairs, dq = self.empty((B, Hq, Mq, 2), real), self.empty((B, Hq, Mq, 32), real)
        problem = replace(attention_problem(dv, dv, dtype, B, Hq, Nq), vector=dv == 140)
        operands = Operands(read(o), read(o), read(o), do=read(do), o=read(o), lse=read(lse))
        operands = replace(operands, dlse=read(dlse)) if has_dlse else operands
        (what,) = rows.launches(problem, operands, read(pairs), read(dq))
        launch(what)
        ref = (do.astype(np.float64) * o.astype(np.float64)).sum(axis=-1) - (dlse if has_dlse else 0)
        naive = (do.astype(real) * o.astype(real)).sum(axis=-1, dtype=real) - (dlse if has_dlse else real(0))
        assert_close(pairs[:, :, :Nq, 1], ref, [naive, naive + np.spacing(np.abs(naive))], "float32", "delta")
        np.testing.assert_allclose(pairs[:, :, :Nq, 0], np.where(np.isinf(lse), np.inf, lse / np.log(2)), rtol=1e-6)
        assert np.isposinf(pairs[:, :, Nq:, 0]).all() and not pairs[:, :, Nq:, 1].any() and not dq.any()

    @pytest.mark.parametrize("adds", ["vectors", "scalars"])
    @pytest.mark.parametrize("tiles", [GradientTiles(64, 16, 64, 64, 1, 4), GradientTiles(32, 16, 32, 32, 1, 2)])
    def test_collect(self, dtype, adds, tiles):
        """Numbers that lie as their threads hold them: every row and column finds its own."""
        if dtype not in ("float16", "bfloat16"):
            pytest.skip("tensor cores take 16 bits")
        B, Hq, Nq, d, warps, steps = 1, 2, 40, tiles.D - 3, tiles.warps, tiles.dq_columns // tiles.dq_step
        Mq, rows_of, columns = -(-Nq // tiles.Br) * tiles.Br, tiles.dq_rows, tiles.dq_step
        dq = normal(0, B * Hq, Mq, tiles.D).astype(np.float32)
        x = dq.reshape(B * Hq, Mq // tiles.Br, -1, rows_of // 16, 2, 8, tiles.D // columns, columns // 8, 4, 2)
        x = x.transpose(0, 1, 2, 6, 3, 7, 4, 9, 5, 8)  # ..., warp's rows, columns, fragment, its half, element, lane
        x = x.reshape(B * Hq, Mq // tiles.Br, warps, steps, -1, 2, 2, 32).transpose(0, 1, 2, 7, 3, 4, 5, 6)
        x = x.reshape(B * Hq, Mq // tiles.Br, tiles.threads, -1)
        group = 4 if adds == "vectors" else 1
        x = x.reshape(*x.shape[:3], -1, group).swapaxes(2, 3).reshape(B, Hq, Mq, tiles.D)
        out = self.empty((B, Hq, Nq, d), DTYPES[dtype])
        problem = replace(attention_problem(d, d, dtype, B, Hq, Nq), scale=0.5)
        (what,) = collect.launches(problem, tiles, adds, read(np.ascontiguousarray(x)), read(out))
        launch(what)
        expected = (np.float32(0.5) * dq.reshape(B, Hq, Mq, tiles.D)).astype(DTYPES[dtype])[:, :, :Nq, :d]
        assert out.tobytes() == np.ascontiguousarray(expected).tobytes()


class TestDeterministic:
    """dQ of flash2 over five key blocks, in the simulator: a sum in any order, or a kernel of its own."""

    pytestmark = in_simulator
    KEYS, TILES = 73, (Tiles(16, 8, 32, 32, 4, 8), Tiles(8, 16, 32, 32, 2, 8))

    def gradients(self, dtype, seed=None, **how):
        q, do = (normal(n, 1, 1, 5, 4).astype(DTYPES[dtype]) for n in (0, 1))
        k, v = (normal(n, 1, 1, self.KEYS, 4).astype(DTYPES[dtype]) for n in (2, 3))
        with attention_tiles(*self.TILES), simulator.options(seed=seed):
            o, lse = flash_attention(q, k, v, return_lse=True, kernel="flash2")
            return flash_attention_backward(do, q, k, v, o, lse, kernel="flash2", **how)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_any_order_of_blocks_gives_the_same_bits(self, dtype):
        first, *others = (self.gradients(dtype, seed, deterministic=True) for seed in (None, 1, 2, 3))
        for other in others:
            assert [x.tobytes() for x in first] == [x.tobytes() for x in other]

    def test_unasked_the_order_of_blocks_changes_bits_of_dq_alone(self):
        dq, dk, dv = zip(*(self.gradients("float32", seed) for seed in (None, 1, 2, 3)), strict=True)
        assert len({x.tobytes() for x in dq}) > 1
        assert len({x.tobytes() for x in dk}) == 1 == len({x.tobytes() for x in dv})

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_both_ways_agree(self, dtype):
        summed, computed = self.gradients(dtype), self.gradients(dtype, deterministic=True)
        np.testing.assert_allclose(*(x[0].astype(np.float64) for x in (summed, computed)), atol=4 * epsilon(dtype))
        for x, y in zip(summed[1:], computed[1:], strict=True):
            assert x.tobytes() == y.tobytes()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_its_launches(self, dtype):
        """A kernel for dQ if it must be the same; 16-bit floats are summed in float32 and then rounded."""
        x = Operands(*(read(np.zeros((1, 1, n, 4), DTYPES[dtype])) for n in (5, 7, 7)))
        rows = read(np.zeros((1, 1, 5), DTYPES[real_of(dtype)]))
        x = replace(x, do=x.q, o=x.q, lse=rows)
        names = {}
        for deterministic in (False, True):
            problem = replace(attention_problem(4, 4, dtype), deterministic=deterministic)
            made = flash2_backward.launches(problem, SIMULATOR, x, x.q, x.k, x.v)
            names[deterministic] = [what.kernel.name for what in made]
        before = ["delta", "flash2_backward_keys"]
        assert names[True] == [*before, "flash2_backward_queries"]
        assert names[False] == [*before, *["convert"] * (dtype != real_of(dtype))]

    def test_launches_on_tensor_cores(self):
        x = Operands(*(read(np.zeros((1, 1, n, 4), np.float16)) for n in (5, 7, 7)))
        x = replace(x, do=x.q, o=x.q, lse=read(np.zeros((1, 1, 5), np.float32)))
        for deterministic in (False, True):
            problem = replace(attention_problem(4, 4, "float16"), deterministic=deterministic)
            made = flash2_mma_backward.launches(problem, SIMULATOR, x, x.q, x.k, x.v)
            names = [what.kernel.name for what in made]
            assert names == ["rows", *["clear"] * deterministic, "flash2_mma_backward", "collect"]

    def test_any_order_of_blocks_gives_the_same_bits_on_tensor_cores(self):
        q, do = (normal(n, 1, 2, 40, 8).astype(np.float16) for n in (0, 1))
        k, v = (normal(n, 1, 1, self.KEYS, 8).astype(np.float16) for n in (2, 3))
        results = {False: [], True: []}
        with fragment_tiles(Tiles(16, 16, 32, 32, 2, 4), GradientTiles(32, 16, 32, 32, 1, 2)):
            o, lse = flash_attention(q, k, v, return_lse=True, kernel="flash2_mma")
            for deterministic, seed in itertools.product(results, (None, 1, 2)):
                with simulator.options(seed=seed, blocks=2):
                    how = {"kernel": "flash2_mma", "deterministic": deterministic}
                    gradients = flash_attention_backward(do, q, k, v, o, lse, **how)
                results[deterministic].append([x.tobytes() for x in gradients])
        first, *others = results[True]
        assert all(first == other for other in others)
        assert all(first[1:] == other[1:] for other in results[False])


class TestOrder:
    pytestmark = in_simulator

    @pytest.mark.parametrize("module", [flash2_forward, flash2_mma_forward], ids=lambda m: m.__name__.split(".")[-1])
    @pytest.mark.parametrize("together", [1, 2, 4, 9])
    def test_heads_may_start_together(self, module, together, monkeypatch):
        monkeypatch.setattr(module, "heads_together", lambda problem, device: together)
        dtype = np.float16 if module is flash2_mma_forward else np.float32
        q, k, v = (normal(n, 2, H, N, 8).astype(dtype) for n, (H, N) in enumerate([(3, 40), (1, 37), (1, 37)]))
        with tiny_tiles():
            o, lse = flash_attention(q, k, v, causal=True, return_lse=True, kernel=module.__name__.split(".")[-1])
        ref_o, ref_lse = reference.attention(q, k, v, causal=True)
        np.testing.assert_allclose(o, ref_o, atol=1e-3)
        np.testing.assert_allclose(lse, ref_lse, atol=1e-3)


def test_heads_that_start_together_leave_their_keys_in_the_cache():
    problem = replace(attention_problem(64, 64, "float16"), B=3, Hq=8, Hk=2, Nq=1024, Nk=1024, last=0)
    odd = replace(problem, B=7, Hq=4, Hk=1)  # which no group of three to five divides
    for fitting, heads in ((0.5, 4), (1, 4), (2.9, 8), (5.5, 12), (100, 24)):  # in groups of the same size
        device = replace(SIMULATOR, l2_bytes=int(fitting * 1024 * 128 * 2 / arguments.CACHED) + 1)
        assert arguments.heads_together(problem, device) == heads
        assert arguments.heads_together(odd, device) == 4 * min(7, max(1, int(fitting)))
    even = replace(problem, last=1024)  # no row is longer than another
    assert arguments.heads_together(even, device) == 4 and arguments.many_together(even, device, 1) == 1


def epsilon(dtype):
    """Half a unit in the last place of numbers near 1."""
    return {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
class TestNumbers:
    """The arithmetic of a dtype in the simulator is that of a GPU."""

    pytestmark = in_simulator

    def test_exponentials_overflow_to_infinity_and_underflow_to_zero(self, dtype):
        n = number(dtype)
        large = type(n.one)(1e4)
        with np.errstate(over="ignore", under="ignore"):
            assert [n.exp(large), n.exp(-large), n.exp(n.neg_inf), n.exp(n.zero)] == [np.inf, 0, 0, 1]


def naive_merge(o1, lse1, o2, lse2):
    """Merge by the formula, in the dtype of lse."""
    lse = np.logaddexp(lse1, lse2)
    m = np.maximum(lse1, lse2)
    alpha, beta = (np.exp(x - np.where(np.isneginf(m), 0, m))[..., None] for x in (lse1, lse2))
    o = alpha * o1.astype(lse.dtype) + beta * o2.astype(lse.dtype)
    return (o / np.where(np.isneginf(m), 1, alpha[..., 0] + beta[..., 0])[..., None]).astype(o1.dtype), lse
