"""The numbered examples: each runs, and what it claims is asserted."""

import re
import runpy
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from interpreter import environment

from numba_flash.simulator import SIMULATED
from numba_flash.tiling import a_place, accumulator_place, b_place, swizzled

EXAMPLES = Path(__file__).parents[2] / "examples"
LESSONS = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
STEPPED = {"11_step_through.py", "13_step_a_warp.py", "14_copies_and_products.py"}
WITHOUT_A_PICTURE = STEPPED | ({"08_kinds_of_memory.py"} if SIMULATED else set())


@pytest.fixture
def lesson(monkeypatch):
    """Runs a script as `python examples/NAME ARGUMENTS` does, and gives its names."""

    def run(name, *arguments):
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        return SimpleNamespace(**runpy.run_path(str(EXAMPLES / name)))

    return run


def test_the_numbers_have_no_gap():
    assert [int(name[:2]) for name in LESSONS] == list(range(1, len(LESSONS) + 1))


@pytest.mark.parametrize("name", [name for name in LESSONS if name not in WITHOUT_A_PICTURE])
def test_pictures_are_saved_where_one_says(lesson, tmp_path, name):
    pytest.importorskip("matplotlib")
    lesson(name, "--save", tmp_path / "pictures")
    (picture,) = (tmp_path / "pictures").iterdir()
    assert picture.name == name.replace(".py", ".svg") and picture.read_text().rstrip().endswith("</svg>")


def test_nothing_is_drawn_unless_asked(lesson, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    lesson("01_overflow.py")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ImportError):
        lesson("01_overflow.py", "--show")


def test_overflow(lesson, capsys):
    script = lesson("01_overflow.py")
    assert script.limits["float32"][0] == pytest.approx(88.722839, abs=1e-5)
    for limit, beyond in script.limits.values():
        with np.errstate(over="ignore"):
            assert np.isfinite(np.exp(limit)) and np.isinf(np.exp(beyond))
    naive, safe = script.errors["naive"], script.errors["safe"]
    assert max(safe) < 1e-7
    for c, error in zip(script.shifts, naive, strict=True):
        assert np.isnan(error) if c > 88.73 or c < -103.9 else error > 0.1 if c == 88.5 else error < 1e-7
    np.testing.assert_allclose(script.library, script.exact, rtol=1e-6)
    assert "88.72" in capsys.readouterr().out


def test_online_softmax(lesson):
    script = lesson("02_online_softmax.py")
    assert script.error < 1e-7 and max([*script.errors.values(), *script.by_threads.values()]) < 1e-6
    assert script.d_online[-1] == pytest.approx(script.d_safe[-1], rel=1e-6)
    assert script.steps["rising"] == 512 and script.steps["falling"] == 1
    for row in script.rows.values():
        m, d = (x.astype(np.float64) for x in script.online_sums(row))
        np.testing.assert_allclose(d * np.exp(m - m[-1]), np.cumsum(np.exp(row.astype(np.float64) - m[-1])), rtol=1e-5)


def test_two_passes_then_one(lesson):
    script = lesson("03_two_passes_then_one.py")
    assert script.difference_two < 1e-13 and script.difference_one < 1e-13 and max(script.library) < 1e-13
    assert np.abs(script.o[:-1] - script.prefixes[:-1]).max() > 0.1  # o_i is no mean before the end, o'_i is
    assert np.abs(script.o_prime).max() <= np.abs(script.V).max()


def test_the_law(lesson):
    script = lesson("04_the_law.py")
    assert set(script.held.values()) == {script.trials}
    assert max(script.differences) < 1e-14 and max(script.library) < 2e-6
    unscaled = [(m, l, 2 * O) for m, l, O in [script.state(script.s, script.V)]]
    assert np.abs(script.as_chain(unscaled)[2] / script.as_chain(unscaled)[1] - script.exact).max() > 0.01


def test_matmul(lesson):
    counts = lesson("05_matmul.py").counts
    assert counts["naive"] == (1, 0)
    for T in (4, 8, 16):
        assert counts[f"tiled, T = {T}"] == (1 / T, 1)
    for TM in (2, 4, 8):
        assert counts[f"T = 16, registers {TM} x {TM}"] == (1 / 16, 1 / TM)


def test_loop_order(lesson):
    script = lesson("06_loop_order.py")
    for by_algorithm in script.orders.values():
        one, two = by_algorithm["FlashAttention-1"], by_algorithm["FlashAttention-2"]
        assert one != two and sorted(one) == two and len(set(one)) == len(one)
        assert one == sorted(one, key=lambda tile: tile[::-1])
    assert [len(order["FlashAttention-2"]) for order in script.orders.values()] == [144, 78, 42]
    counts = script.moved["causal", "FlashAttention-1"], script.moved["causal", "FlashAttention-2"]
    assert [count["K, V read"] for count in counts] == [12, 78]
    assert [count["O, l, m written"] for count in counts] == [78, 12]
    assert max(script.differences.values()) < 1e-13
    assert script.longest_first == 21 < script.shortest_first == 24


@pytest.mark.parametrize("name, once_a_tile", [("flash1", "hide"), ("flash2", "all_visible")])
def test_loop_order_is_that_of_the_algorithms(lesson, monkeypatch, name, once_a_tile):
    """Each algorithm asks once a tile which of its scores count."""
    script = lesson("06_loop_order.py")
    module = import_module(f"numba_flash.algorithms.{name}")
    original, visited = getattr(module, once_a_tile), []

    def recording(*arguments):
        row, col = arguments[:2] if name == "flash2" else arguments[1:3]
        visited.append((row // script.Br, col // script.Bc))
        return original(*arguments)

    monkeypatch.setattr(module, once_a_tile, recording)
    for mask, (first, last) in script.MASKS.items():
        visited.clear()
        getattr(module, f"{name}_forward")(script.Q, script.K, script.V, script.Br, script.Bc, 0.25, first, last)
        assert visited == script.orders[mask][name.replace("flash", "FlashAttention-")]


def test_traffic(lesson):
    script = lesson("07_traffic.py")
    for operation, (_, least) in script.PROBLEMS.items():
        rungs = [script.moved[rung.name] for rung in script.rungs if rung.operation == operation]
        in_global = [row[0] for row in rungs]
        assert in_global == sorted(in_global, reverse=True) and in_global[-1] > least(script.N) and len(rungs) > 1
        assert len({flops for _, _, flops in rungs}) == 1
    assert script.moved["softmax_online"][0] / script.moved["softmax_safe"][0] == 3 / 4
    assert script.moved["flash2_forward"][0] < script.moved["attention_one_pass"][0] / 100
    for counts in script.curves.values():
        assert 3.5 < counts[-1] / counts[-2] < 4.02  # above 4 where sums begin to be made in parts


def test_your_own_attention(lesson, capsys):
    script = lesson("15_your_own_attention.py")
    printed = capsys.readouterr().out
    names = [mod.__name__ for mod in (*script.MASK_MODS, *script.SCORE_MODS)]
    assert list(script.drawn) == names and all(f"{name:26} o is off by" in printed for name in names)
    assert printed.endswith("    TABLE is a ndarray (a mod uses numbers and tuples of numbers).\n")
    i, j = np.indices((script.N, script.N))
    seen = {name: p[0, -1] > 0 for name, p in script.drawn.items()}
    document = np.searchsorted(script.STARTS, np.arange(script.N), side="right")
    assert (seen["causal"] == (j <= i)).all()
    assert (seen["same_document"] == ((j <= i) & (document[:, None] == document))).all()
    assert (seen["window_and_global_tokens"] == ((j <= i) & ((i - j < 12) | (j < 3)))).all()


def undisturbed(holds):
    """Does it hold once in a few seconds? Other tests use the same GPU at the same time."""
    return any(holds() or time.sleep(2) for _ in range(5))


def test_kinds_of_memory(lesson, capsys):
    script = lesson("08_kinds_of_memory.py")
    assert list(script.latencies) == list(script.CHAINS) and len(script.CHAINS) == 7
    table = script.random_cycle(16)
    assert sorted(script.follow(table, 0, n) for n in range(16)) == list(range(16))
    if SIMULATED:
        assert "7 chains lead where they should" in capsys.readouterr().out
        return

    def ordered(times):
        return times["shared"] < times["global, in the L2 cache"] < times["global, in DRAM"]

    assert ordered(script.latencies) or undisturbed(lambda: ordered(script.measure_latencies(1 << 14)))


def test_warp_access(lesson, capsys):
    script = lesson("09_warp_access.py")
    assert list(script.sector_counts.values()) == [1, 4, 8, 16, 32, 32, 32, 32]
    assert list(script.turn_counts.values()) == [1, 1, 2, 4, 8, 16, 32, 1]
    assert script.turns([0, 32, 0, 32, 1]) == 2  # one word serves any number of threads
    assert list(script.strides) == list(script.STRIDES)
    if SIMULATED:
        assert "8 strides end where they should" in capsys.readouterr().out
        return

    def apart(strides):
        return strides[32][0] > 4 * strides[33][0] and strides[1][1] > 2 * strides[32][1]

    assert apart(script.strides) or undisturbed(lambda: apart(script.measure_strides(1 << 14, 1 << 24)))


def test_gradients(lesson):
    script = lesson("10_gradients.py")
    assert max(script.identities.values()) < 1e-14
    assert max(script.errors.values()) < 1e-8
    plain, tiled = script.memory["plain"], script.memory["tiled"]
    assert plain[2] > 3.8 * plain[1] and tiled[2] < 2.1 * tiled[1] and plain[2] > 20 * tiled[2]


def test_step_through():
    command = [sys.executable, EXAMPLES / "11_step_through.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    session, _, races = done.stdout.partition("largest error of the kernel that was stepped through: ")
    assert "(Pdb) p j, r\n(0, 0)" in session and "p m, l, acc\n(-inf, 0.0, array([0., 0.]))" in session
    assert "p j, m, l, acc / l\n(1, " in session
    assert float(races.split("\n")[0]) < 1e-6
    errors = {line[:35].strip(): line[35:].split() for line in races.split("\n") if line.endswith(("True", "False"))}
    assert len(errors) == 6 and {again for _, again in errors.values()} == {"True"}
    for name, (error, _) in errors.items():
        error = float(error)
        assert error < 1e-6 if name.startswith("both") else np.isnan(error) if "first" in name else error > 0.1
    assert "threads 0-2 wait at syncthreads (11_step_through.py:" in races and "thread 3 has returned" in races


def test_fragments(lesson, capsys):
    script = lesson("12_fragments.py")
    for name, lanes in ((name, script.lanes(name)) for name in script.SHAPES):
        assert sorted(np.bincount(lanes.ravel())) == [script.COUNTS[name]] * 32
        for place, (lane, n) in script.held[name].items():
            assert script.PLACES[name](lane, n) == place and lanes[place] == lane
    assert script.same_lanes and script.error <= script.allowed < 1e-4
    for name, loads in {"row-major": (8, 16, 32, 32, 32), "padded": (4,) * 5, "swizzled": (4,) * 5}.items():
        assert tuple(script.turns[name, width][0] for width in script.WIDTHS) == loads
    assert {script.turns["swizzled", width][1] for width in script.WIDTHS} == {4}
    assert all(script.nbytes["padded", width] == script.nbytes["swizzled", width] + 64 * 16 for width in script.WIDTHS)
    for r in range(script.ROWS):
        for c in range(64):
            assert script.swizzled(64)(r, c) == 2 * (64 * r + swizzled(r, c, 64))
    assert "lane 5 holds of B: (2, 1), (3, 1), (10, 1), (11, 1)" in capsys.readouterr().out


def test_step_a_warp():
    command = [sys.executable, EXAMPLES / "13_step_a_warp.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0 and not done.stderr, done.stderr
    session, _, error = done.stdout.partition("largest error of the kernel that was stepped through: ")
    assert float(error) < 2.0**-12  # half a unit of float16 below 1
    assert "-> finish(acc, m, l" in session and str(EXAMPLES.parent) not in session
    shown = {}
    for name, lines in re.findall(r"\(Pdb\) lanes (\w+) .*\n((?:lane.*\n)+)", session):
        rows = [line.removeprefix("lane").partition(":") for line in lines.splitlines()]
        shown.setdefault(name, []).append({int(lane): [float(n) for n in row.split()] for lane, _, row in rows})
    first, scores, weights = shown["s"]
    Q, K = np.zeros((2, 16, 16))
    Q[:, 0], Q[:, 1], K[:, 0], K[:, 1] = range(16), 1, 100, range(16)
    S, P = Q @ K.T, np.exp(0.1 * np.tile(np.arange(-15, 1), (16, 1)))

    def held(lane, X, place, count):
        return [X[place(lane, n)] for n in range(count)]

    def held_twice(lane, X, place):
        return held(lane, X[:, :8], place, 4) + held(lane, X[:, 8:], place, 4)

    for lane in (0, 1, 4, 31):
        assert shown["a"][0][lane] == held(lane, Q, a_place, 8)
        assert shown["b"][0][lane] == held_twice(lane, K.T, b_place)
        assert scores[lane] == held_twice(lane, S, accumulator_place)
        assert first[lane] == scores[lane][:4] + [0] * 4
        largest = 0.1 * np.log2(np.e) * S[[lane // 4, lane // 4 + 8], 15]
        np.testing.assert_allclose(shown["m"][0][lane], [*largest, 0, 0], rtol=1e-3)
        for seen in (weights, shown["p"][0], shown["acc"][0]):
            np.testing.assert_allclose(seen[lane], held_twice(lane, P, accumulator_place), rtol=1e-3)


def test_copies_and_products():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "14_copies_and_products.py"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    timeline, _, rest = done.stdout.partition("largest error: ")
    lines = timeline.splitlines()[1:]
    columns = {
        first: [line.strip() for line in lines if len(line) - len(line.lstrip()) == first] for first in (0, 24, 56)
    }
    copies, *warpgroups = columns.values()
    assert [line for line in copies if line.startswith("copies")] == [
        "copies K 0", "copies Q", "copies V 0", "copies K 1", "copies V 1", "copies K 0", "copies V 0", "copies K 1",
        "copies V 1", "copies K 0", "copies V 0",
    ]  # fmt: skip
    for events in warpgroups:
        assert events.count("has its exponentials") == events.count("S is there") == 4  # and one block before the loop
        for n, event in enumerate(events):
            if event == "has its exponentials":
                assert events[n + 1] == "all products are done"
    figures = {line[:32].strip(): line[32:].split() for line in rest.splitlines()[2:] if line}
    assert float(rest.splitlines()[0]) < 1e-3 and all(float(x) < 1e-3 for x in figures["none"])
    assert figures["V is not waited for"][0] == "MemoryFault"
    assert {"Deadlock", "MemoryFault"} >= {*figures["K is copied before it is free"]}
