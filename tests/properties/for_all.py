"""Properties as tests: a function of a backend and a case that must hold for all cases that suit the backend."""

from contextlib import nullcontext

from hypothesis import given, settings

from numba_flash import simulator
from numba_flash.simulator import SIMULATED
from numba_flash.testing.backends import Backend


def for_all(times=1, cases=Backend.cases, **restrictions):
    """A test that draws `times` as many cases as the profile says; `restrictions` are arguments of the strategy.

    The undecorated function stays at hand as `holds`, to be tried on a case of one's own, and the search for a case in
    which it does not hold as `search`, which takes other settings of hypothesis. `python -m numba_flash soak` makes
    searches of its own from `holds`, `cases` and `restrictions`.
    """

    def decorate(holds):
        def search(backend, **how):
            examples = times * backend.cases_per_example * settings.default.max_examples
            how = {"max_examples": max(1, int(examples)), **how}
            settings(**how)(given(case=cases(backend, **restrictions))(holds))(backend=backend)

        def test(backend):
            search(backend)

        test.__name__, test.__doc__, test.__module__ = holds.__name__, holds.__doc__, holds.__module__
        test.holds, test.search = holds, search
        test.cases, test.restrictions = cases, restrictions
        return test

    return decorate


def simulated(**options):
    """`simulator.options` where kernels are simulated; a GPU chooses the order of threads and when copies land."""
    return simulator.options(**options) if SIMULATED else nullcontext()
