"""A block's pieces of a tile: who owns what, how tiles are loaded, multiplied and written, against NumPy."""

import itertools
from functools import partial

import numpy as np
import pytest
from numba import cuda, types
from numba.np.numpy_support import from_dtype

from numba_flash import simulator
from numba_flash.config import APART, Piece, padded
from numba_flash.device import products, tiles
from numba_flash.device.products import make_place, make_rows_and_columns
from numba_flash.ptx import global_view, shared_tile

from .helpers import DTYPES, in_simulator

pytestmark = in_simulator

PIECES = [Piece(RG, CG, TM, TN, U, V)
          for RG, CG, TM, TN, U, V in itertools.product((2, 4), (1, 4), (1, 3, 4, 8), (1, 3, 4, 8), (1, 4), (1, 4))
          if TM % U == 0 == TN % V]  # fmt: skip


def in_block(threads, body, shared_bytes=0):
    """Run body() in every thread of one block."""
    simulator.launch(body, 1, threads, shared_bytes, ())


@pytest.mark.parametrize("piece", PIECES, ids=str)
def test_every_element_has_one_owner(piece):
    row, column = make_rows_and_columns(piece)
    rows = sorted(row(rg, r) for rg in range(piece.RG) for r in range(piece.TM))
    columns = sorted(column(cg, c) for cg in range(piece.CG) for c in range(piece.TN))
    assert rows == [*range(piece.RG * piece.TM)] and columns == [*range(piece.CG * piece.TN)]


@pytest.mark.parametrize("piece", PIECES, ids=str)
def test_runs_are_neighbours_and_begin_at_multiples_of_their_length(piece):
    row, column = make_rows_and_columns(piece)
    for place, count, run in ((row, piece.TM, piece.U), (column, piece.TN, piece.V)):
        for begin in range(0, count, run):
            assert place(1, begin) % run == 0
            assert [place(1, begin + n) - place(1, begin) for n in range(run)] == [*range(run)]
        assert place(1, 0) - place(0, 0) == run


@pytest.mark.parametrize(("RG", "CG"), [(2, 1), (4, 2), (4, 8), (2, 16), (8, 16), (2, 32), (6, 4)])
def test_places(RG, CG):
    place, places = make_place(CG), {}

    def body():
        places[cuda.threadIdx.x] = place()

    in_block(RG * CG, body)
    assert sorted(places.values()) == [*itertools.product(range(RG), range(CG))]
    for lane, (rg, cg) in places.items():
        assert places[lane ^ 1][1] == cg
        if CG > 1:
            assert places[lane ^ 2][0] == rg
        if APART * CG <= 32:  # then a row lives in one warp, its lanes APART from one another
            assert {other // 32 for other, (row, _) in places.items() if row == rg} == {lane // 32}


ARRAY = np.random.default_rng(0).integers(1, 99, (4, 12))
LAYOUTS = {
    "elements": lambda x: np.repeat(x[::-1], 2, axis=-1)[::-1, ::2],
    "vectors": lambda x: np.pad(x, ((0, 0), (0, 4)), constant_values=99)[:, :12],
}
LAYOUTS["copies"] = LAYOUTS["vectors"]
KINDS = [
    pytest.param(loads, dtype, id=f"{loads}-{dtype}")
    for loads in LAYOUTS
    for dtype in DTYPES
    if loads != "copies" or dtype in ("float32", "float64")
]


def part(X, rows, columns, row, col, N, width):
    """X[row + r, col + c], 0 beyond (N, width)."""
    x = np.zeros((row + rows, col + columns))
    x[: min(N, len(x)), : min(width, x.shape[1])] = X[:N, :width][: len(x), : x.shape[1]]
    return x[row:, col:]


@pytest.mark.parametrize("landing", ["late", "early"])
@pytest.mark.parametrize(("loads", "dtype"), KINDS)
@pytest.mark.parametrize("make", [tiles.make_load_tile, tiles.make_load_transposed], ids=["rows", "transposed"])
@pytest.mark.parametrize(("rows", "columns", "threads"), [(5, 8, 8), (6, 4, 32)])
def test_tiles_are_loaded_with_zeros_beyond_the_edges(make, rows, columns, threads, loads, dtype, landing):
    """Every N and width; a tile that begins at the first row and column, at later ones, and behind the last."""
    x = LAYOUTS[loads](ARRAY.astype(DTYPES[dtype]))
    stored = "uint16" if x.dtype.itemsize == 2 else dtype
    strides = (0, 0, *(n // x.itemsize for n in x.strides))
    real = types.float64 if dtype == "float64" else types.float32
    transposed = make is tiles.make_load_transposed
    tall, wide = (columns, rows) if transposed else (rows, columns)
    shape = tall, padded(wide, real.bitwidth // 8)
    load, (commit, wait) = make(dtype, rows, columns, threads, loads), tiles.make_pipeline(loads)
    out = {}

    def body(X, where):
        tile = shared_tile(0, shape, real)
        view = global_view(X, 0, from_dtype(np.dtype(stored)))
        load(tile, view, strides, *where)
        commit()
        wait(0)
        cuda.syncthreads()  # everyone's part is written
        if cuda.threadIdx.x == 0:
            out[where] = np.array(tile)

    whole = 1 if loads == "elements" else 4
    places = itertools.product((0, 1, 4), (0, 4), range(5), range(0, 13, whole))
    with simulator.options(landing=landing):
        for where in places:
            pointer = simulator.Pointer(x, writable=False)
            simulator.launch(body, 1, threads, shape[0] * shape[1] * real.bitwidth // 8, (pointer, where))
            expected = part(ARRAY, rows, columns, *where)
            assert np.array_equal(out[where][:, :wide], expected.T if transposed else expected), where
            assert np.isnan(out[where][:, wide:]).all()  # nothing lies between the rows


PRODUCTS = [
    (products.make_multiply_atb, Piece(2, 4, 4, 4, 4, 4), (True, False)),
    (products.make_multiply_atb, Piece(2, 4, 4, 8, 4, 4), (True, False)),
    (products.make_multiply_atb, Piece(2, 4, 8, 3, 4, 1), (True, False)),
    (products.make_multiply_atb, Piece(2, 4, 4, 3, 4, 1), (True, False)),
    (products.make_multiply_atb, Piece(4, 2, 8, 16, 4, 4), (True, False)),
    (products.make_multiply_ab, Piece(2, 4, 3, 8, 1, 4), (False, False)),
    (products.make_multiply_abt, Piece(2, 4, 3, 5), (False, True)),
]


@pytest.mark.parametrize(("make", "piece", "across"), PRODUCTS, ids=lambda x: getattr(x, "__name__", str(x)))
@pytest.mark.parametrize("depth", [4, 8, 12])
@pytest.mark.parametrize("real", [types.float32, types.float64], ids=str)
def test_products_of_integers(make, piece, across, depth, real):
    """Exactly; what is in `acc` before stays in the sum."""
    tall, wide = piece.RG * piece.TM, piece.CG * piece.TN
    rng = np.random.default_rng(depth)
    A, B, C = (rng.integers(-9, 9, shape) for shape in ((tall, depth), (depth, wide), (tall, wide)))
    stored = [x.T if turned else x for x, turned in zip((A, B), across, strict=True)]
    multiply, place, (row, column) = (
        make(piece, depth, real),
        make_place(piece.CG),
        make_rows_and_columns(piece),
    )
    shapes = [(x.shape[0], padded(x.shape[1], real.bitwidth // 8)) for x in stored]
    size = shapes[0][0] * shapes[0][1] * real.bitwidth // 8
    result = np.full((tall, wide), np.nan)

    def body():
        operands = shared_tile(0, shapes[0], real), shared_tile(size, shapes[1], real)
        if cuda.threadIdx.x == 0:
            for tile, x in zip(operands, stored, strict=True):
                tile[:, : x.shape[1]] = x
        cuda.syncthreads()  # both operands are written
        rg, cg = place()
        acc = cuda.local.array(piece.size, real)
        mine = [(r, c, row(rg, r), column(cg, c)) for r in range(piece.TM) for c in range(piece.TN)]
        for r, c, y, x in mine:
            acc[r * piece.TN + c] = C[y, x]
        multiply(acc, *operands, rg, cg)
        for r, c, y, x in mine:
            result[y, x] = acc[r * piece.TN + c]

    in_block(piece.RG * piece.CG, body, size + shapes[1][0] * shapes[1][1] * real.bitwidth // 8)
    assert np.array_equal(result, A @ B + C)


def own(piece, what):
    """Run what(numbers of a piece, rg, cg) in every thread; the numbers say where in the tile they belong."""
    place, (row, column) = make_place(piece.CG), make_rows_and_columns(piece)

    def body():
        rg, cg = place()
        s = cuda.local.array(piece.size, types.float32)
        for r, c in itertools.product(range(piece.TM), range(piece.TN)):
            s[r * piece.TN + c] = 100 * row(rg, r) + column(cg, c)
        what(s, rg, cg)

    return body


def numbers(rows, columns):
    """What `own` gives a tile."""
    return 100 * np.arange(rows)[:, None] + np.arange(columns)


@pytest.mark.parametrize(
    ("make", "piece"),
    [
        (tiles.make_store_piece, Piece(4, 4, 3, 2)),
        (tiles.make_store_transposed, Piece(4, 4, 8, 3, 4, 1)),
        (tiles.make_store_transposed, Piece(2, 8, 4, 4, 4, 4)),
    ],
)
def test_pieces_in_shared_memory(make, piece):
    tall, wide = piece.RG * piece.TM, piece.CG * piece.TN
    transposed = make is tiles.make_store_transposed
    rows, columns = (wide, tall) if transposed else (tall, wide)
    shape, store, out = (rows, padded(columns, 4)), make(piece), []

    def keep(s, rg, cg):
        tile = shared_tile(0, shape, types.float32)
        store(tile, s, rg, cg)
        cuda.syncthreads()  # everyone's piece is stored
        if cuda.threadIdx.x == 0:
            out.append(np.array(tile[:, :columns]))

    in_block(piece.RG * piece.CG, own(piece, keep), shape[0] * shape[1] * 4)
    expected = numbers(tall, wide)
    assert np.array_equal(out[0], expected.T if transposed else expected)


WRITERS = {
    "elements": (partial(tiles.make_write_rows, dtype="float32", vector=False), 1, 0),
    "vectors": (partial(tiles.make_write_rows, dtype="float32", vector=True), 4, 0),
    "add": (partial(tiles.make_add_rows, adds="scalars"), 1, 1),
    "add4": (partial(tiles.make_add_rows, adds="vectors"), 4, 1),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("piece", [Piece(2, 2, 3, 8, 1, 4), Piece(2, 2, 8, 4, 4, 4)], ids=str)
def test_pieces_in_global_memory(name, piece):
    """Every N and width up to the tile's: existing elements are written or added to, and no others."""
    make, whole, kept = WRITERS[name]
    write, row0 = make(piece), 3
    tall, wide = piece.RG * piece.TM, piece.CG * piece.TN
    for N, width in itertools.product(range(row0 + tall + 2), range(0, wide + 1, whole)):
        out = np.full((row0 + tall + 2, max(width, 4)), 7, np.float32)

        def body(X, N=N, width=width, stride=out.shape[1]):
            view = global_view(X, 0, types.float32)
            own(piece, lambda s, rg, cg: write(view, stride, s, np.float32(2), rg, cg, row0, N, width))()

        simulator.launch(body, 1, piece.RG * piece.CG, 0, (simulator.Pointer(out, writable=True),))
        expected = np.full_like(out, 7)
        rows = min(max(N - row0, 0), tall)
        expected[row0 : row0 + rows, :width] = 7 * kept + 2 * numbers(rows, width)
        assert np.array_equal(out, expected), (N, width)
