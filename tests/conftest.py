"""The suite runs everywhere: the CPU path always, kernels on a GPU where there is one, elsewhere in the simulator."""

import importlib.util
import os
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version


def usable_gpus():
    """How many GPUs CuPy can use."""
    if importlib.util.find_spec("cupy") is None:
        return 0
    import cupy

    try:
        return cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        return 0


GPUS = usable_gpus()
os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "0" if GPUS else "1")  # numba reads it once, when it is imported
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take three quarters of a GPU's memory
for library in ("OPENBLAS", "MKL"):  # a worker a core: more threads only wait for one another
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import pytest  # noqa: E402
from hypothesis import HealthCheck, Phase, settings  # noqa: E402

from numba_flash.planners import forget_plans  # noqa: E402
from numba_flash.simulator import SIMULATED  # noqa: E402
from numba_flash.testing import backends  # noqa: E402
from numba_flash.testing.tiles import tiny_tiles  # noqa: E402

AVAILABLE = [backends.CPU, *[backends.SIMULATOR] * SIMULATED, *[backends.GPU] * (GPUS > 0 and not SIMULATED)]

PROFILES = {
    "fast": {"max_examples": 10, "derandomize": True, "phases": [Phase.explicit, Phase.generate]},
    "thorough": {"max_examples": 100},
    "nightly": {"max_examples": 2000},
}
for name, profile in PROFILES.items():
    settings.register_profile(
        name,
        **profile,
        deadline=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def installed(package):
    """A package's version, for people."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def pytest_addoption(parser):
    parser.addoption("--backend", choices=[b.name for b in AVAILABLE], help="run the properties on this one alone")


def pytest_report_header(config):
    packages = ("numpy", "numba", "numba-cuda", "hypothesis", "ml_dtypes", "torch")
    return [
        f"backends: {', '.join(backend.name for backend in AVAILABLE)} ({GPUS} GPUs)",
        f"versions: {', '.join(installed(package) for package in packages)}",
    ]


def backends_of(item):
    """The names among a test's parameters that may be a backend's."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {name for value in values if isinstance(name := getattr(value, "name", value), str)}


def pytest_collection_modifyitems(config, items):
    if chosen := config.getoption("--backend"):
        others = {backend.name for backend in AVAILABLE} - {chosen}
        config.hook.pytest_deselected(items=[item for item in items if others & backends_of(item)])
        items[:] = [item for item in items if not others & backends_of(item)]
    for item in items:
        if item.get_closest_marker("gpu") and backends.GPU not in AVAILABLE:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU and CuPy"))


MARKS = {"cpu": (), "simulator": pytest.mark.simulator, "gpu": pytest.mark.gpu}


PARAMS = {b.name: pytest.param(b, id=b.name, marks=MARKS[b.name]) for b in AVAILABLE}


@pytest.fixture(autouse=True)
def plans_of_its_own():
    """A test may change what plans are made from."""
    forget_plans()


def prepared(backend):
    """The backend; simulated kernels get tiny tiles, since a launch of the real ones is slow."""
    with tiny_tiles() if backend is backends.SIMULATOR else nullcontext():
        yield backend


@pytest.fixture(params=PARAMS.values())
def backend(request):
    """Every backend of this machine."""
    yield from prepared(request.param)


@pytest.fixture(params=[PARAMS[name] for name in PARAMS if name != "cpu"])
def kernels(request):
    """The same without the CPU path."""
    yield from prepared(request.param)


@pytest.fixture
def simulator():
    """The simulator, with the tile sizes that kernels have on a GPU."""
    if not SIMULATED:
        pytest.skip("NUMBA_ENABLE_CUDASIM is 0")
    return backends.SIMULATOR
