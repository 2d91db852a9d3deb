"""Timing kernels on a GPU, for the numbered scripts."""

import warnings

from numba import cuda
from numba.cuda.core.errors import NumbaPerformanceWarning

from numba_flash.simulator import SIMULATED

ON_GPU = not SIMULATED and cuda.is_available()
warnings.simplefilter("ignore", NumbaPerformanceWarning)  # grids of one block are what some kernels are about


def milliseconds(launch, repeats=7):
    """The shortest time of `launch(n)`, n = 1, 2, ..., by CUDA events, after a first call that compiles.

    Whoever else uses the GPU only adds to it.
    """
    launch(0)
    times = []
    for n in range(1, repeats + 1):
        begin, end = cuda.event(), cuda.event()
        begin.record()
        launch(n)
        end.record()
        end.synchronize()
        times.append(cuda.event_elapsed_time(begin, end))
    return min(times)
