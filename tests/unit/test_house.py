"""The rules of the house: one-way imports, complete kernel cards, named hazards, short files."""

import ast
import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from interpreter import environment

import numba_flash
from numba_flash.ladder import FASTEST_FIRST, LADDER
from numba_flash.runtime.environment import sources

PACKAGE = Path(numba_flash.__file__).parent
ROOT = PACKAGE.parent

# A module imports only from lines above its own, or from its own line.
ORDER = (
    "reference",
    "tiling",
    "algorithms.tiles",
    "algorithms.monoid",
    "algorithms",
    "arrays",
    "allocation",
    "outline",
    "mods",
    "problem",
    "matmul_problem",
    "softmax_problem",
    "traffic",
    "simulator",
    "config",
    "runtime",
    "rungs.arguments",
    "rungs.passes",
    "rungs",
    "compilable",
    "ptx",
    "device",
    "kernels.passes",
    "kernels",
    "cpu",
    "ladder",
    "specimen",
    "steps",
    "gpu_plan",
    "plan",
    "shortcut",
    "planners",
    "ops",
    "__init__",
    "torch",
    "testing",
    "compilers",
    "compiled",
    "warm",
    "info",
    "demo",
    "bench",
    "soak",
    "cache_command",
    "__main__",
)
HEADINGS = ["Paper", "Grid", "Shapes", "On chip", "Invariant", "Units", "Edges", "Traffic"]


def module_name(path):
    """The name below the package: `kernels.flash2_forward`, `__init__` for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def line_of(name):
    """The line of ORDER that a module belongs to: the longest that its name starts with."""
    fitting = [line for line in ORDER if f"{name}.".startswith(f"{line}.")]
    assert fitting, f"numba_flash/{name} has no line in ORDER"
    return max(fitting, key=len)


KERNELS = [name for name in MODULES if name.startswith("kernels.") and name != "kernels.passes"]
RUNGS = [name for name in MODULES if line_of(name) == "rungs" and name != "rungs"]


def imported(name):
    """The modules of this package that a module imports, inside of functions too."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "numba_flash":
                    yield alias.name.partition(".")[2] or "__init__"
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                source = f"{base}.{node.module}" if node.module else base
            elif node.module and node.module.split(".")[0] == "numba_flash":
                source = node.module.partition(".")[2]
            else:
                continue
            for alias in node.names:
                inner = f"{source}.{alias.name}".lstrip(".")
                yield inner if inner in MODULES else source or "__init__"


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_upwards(name):
    own = ORDER.index(line_of(name))
    below = [other for other in imported(name) if ORDER.index(line_of(other)) > own]
    assert not below, f"numba_flash/{name} imports {', '.join(below)}"


@pytest.mark.parametrize("name", RUNGS)
def test_rungs_do_not_import_one_another(name):
    for half in (name, name.replace("rungs", "kernels")):
        others = [other for other in imported(half) if line_of(other) in ("rungs", "kernels")]
        assert set(others) <= {name}


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_cards_are_complete(name):
    card = ast.get_docstring(ast.parse(MODULES[name].read_text()), clean=False)
    title, empty, *lines = card.splitlines()
    assert re.fullmatch(r"\S.*\.        New here: .*", title) and empty == ""
    found = [m.group(1) for m in (re.match(rf"({'|'.join(HEADINGS)})  +\S", line) for line in lines) if m]
    assert found == HEADINGS


@pytest.mark.parametrize("name", [name for name in MODULES if line_of(name).startswith(("kernels", "device"))])
def test_every_barrier_names_its_hazard(name):
    for number, line in enumerate(MODULES[name].read_text().splitlines(), 1):
        if re.search(r"\b(sync(threads|warp)|barrier_(sync|arrive))\(", line):
            assert re.search(r"\)  # \w+", line), f"{MODULES[name]}:{number} says not why it waits"


@pytest.mark.parametrize("rung", LADDER, ids=lambda rung: rung.name)
def test_every_row_of_the_ladder_is_a_module(rung):
    assert rung.module.removeprefix("numba_flash.") in MODULES
    module = rung.load()
    if not rung.on_gpu:
        assert callable(module.run)
        return
    assert rung.module == f"numba_flash.rungs.{rung.name}"
    assert any(name.endswith("CONFIGS") for name in vars(module))
    assert callable(module.why_not) and callable(module.launches) and callable(module.traffic)
    page = importlib.import_module(f"numba_flash.kernels.{rung.name}")
    factories = [f for name, f in vars(page).items() if name.startswith(f"make_{rung.name}")]
    assert factories and all(hasattr(factory, "cache_info") for factory in factories)


def test_the_ladder_lists_every_rung_once():
    names = [rung.name for rung in LADDER]
    assert len(set(names)) == len(names)
    assert {f"rungs.{rung.name}" for rung in LADDER if rung.on_gpu} == set(RUNGS)
    assert set(FASTEST_FIRST) <= set(names)
    families = [(rung.operation, rung.family) for rung in LADDER]
    assert len(set(families)) == len(families)


def test_what_compiled_kernels_are_made_of_is_in_their_key():
    """The simulator stands in for the compiler: its folder is not."""
    todo, reached = {name for name in MODULES if line_of(name) in ("kernels", "kernels.passes", "runtime")}, set()
    while todo:
        name = todo.pop()
        reached.add(name)
        todo |= {other for other in imported(name) if line_of(other) != "simulator"} - reached
    assert {"ptx.memory", "device.softmax", "config", "tiling"} <= reached
    assert {MODULES[name] for name in reached} <= set(sources())


@pytest.mark.parametrize("folder", ["numba_flash", "tests", "examples"])
def test_files_are_short(folder):
    long = {str(path): n for path in (ROOT / folder).rglob("*.py") if (n := len(path.read_text().splitlines())) > 500}
    assert not long


PLANS = """
    import sys
    from numba_flash.compiled import DEVICES, variants, launches_of
    for v in variants():
        assert launches_of(v.source, v.problem, DEVICES[v.arch])
    print(sorted({"numba", "llvmlite"} & set(sys.modules)))
"""


@pytest.mark.parametrize("program", ["import sys, numba_flash; print([*{'numba'} & {*sys.modules}])", PLANS])
def test_neither_importing_nor_planning_imports_numba(program):
    """Half a second that a call never needs whose kernels are compiled already."""
    env = environment(NUMBA_ENABLE_CUDASIM="0")
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("simulated", ["0", "1"])
def test_importing_the_package_imports_no_gpu_library(simulated, tmp_path):
    for library in ("cupy", "torch"):
        (tmp_path / f"{library}.py").write_text("raise AssertionError('imported')")
    env = environment(tmp_path, NUMBA_ENABLE_CUDASIM=simulated)
    program = "import sys, numba_flash; print(sorted({'cupy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
