# %% [markdown]
# # 8. A GPU's kinds of memory, measured
# A thread can keep a number in five places. They differ in who sees it, in how much there is, and above all in how long
# a thread waits for one number. The table says the first two; the third is measured.
#
# Times need an NVIDIA GPU with 2 GB. `NUMBA_ENABLE_CUDASIM=1 python examples/08_kinds_of_memory.py` runs the same
# kernels in the simulator, untimed.

# %%
import numpy as np
from gpu import ON_GPU, milliseconds
from numba import cuda
from pictures import picture

from numba_flash.simulator import SIMULATED

MEMORY = (
    ("register", "a variable", "its thread", "256 KB a multiprocessor"),
    ("local", "cuda.local.array", "its thread", "in DRAM, through the caches"),
    ("shared", "cuda.shared.array", "its block", "227 KB a block"),
    ("constant", "cuda.const.array_like", "all, read-only", "64 KB, through a cache"),
    ("global", "an array argument", "all", "80 GB, through 50 MB of L2"),
)
print(f"{'memory':9} {'in numba.cuda':22} {'seen by':15} on an H100")
for name, declaration, seen_by, size in MEMORY:
    print(f"{name:9} {declaration:22} {seen_by:15} {size}")

# %% [markdown]
# ## How long one access takes
# One thread follows a chain: the number it reads is the address of the next. No access can start before the last one
# has ended, so the time of a step is the latency. The chain is a random cycle through all of the table.


# %%
TABLE_SIZE = 64


def random_cycle(size):
    """uint64 table that leads from each place to another, through all of them, and back."""
    order = np.random.default_rng(0).permutation(size).astype(np.uint64)
    table = np.empty(size, np.uint64)
    table[order] = np.roll(order, -1)
    return table


CONSTANTS = random_cycle(TABLE_SIZE)
ONE, SIZE = np.uint64(1), np.uint64(TABLE_SIZE)  # uint64 and a bare 1 would be float64 in a kernel


@cuda.jit
def chase_register(table, start, steps, out):
    place = start
    for _ in range(steps):
        place = (place * place + ONE) % SIZE
    out[0] = place


@cuda.jit
def chase_constant(table, start, steps, out):
    constants = cuda.const.array_like(CONSTANTS)
    place = start
    for _ in range(steps):
        place = constants[place]
    out[0] = place


@cuda.jit
def chase_shared(table, start, steps, out):
    tile = cuda.shared.array(TABLE_SIZE, np.uint64)
    for n in range(TABLE_SIZE):
        tile[n] = table[n]
    place = start
    for _ in range(steps):
        place = tile[place]
    out[0] = place


@cuda.jit
def chase_local(table, start, steps, out):
    own = cuda.local.array(TABLE_SIZE, np.uint64)  # registers have no index, so these numbers cannot stay in any
    for n in range(TABLE_SIZE):
        own[n] = table[n]
    place = start
    for _ in range(steps):
        place = own[place]
    out[0] = place


@cuda.jit
def chase_global(table, start, steps, out):
    place = start
    for _ in range(steps):
        place = table[place]
    out[0] = place


def follow(table, start, steps):
    """Where the chain leads, on the host."""
    for _ in range(steps):
        start = table[start]
    return start


REGISTER_CHAIN = ((np.arange(TABLE_SIZE) ** 2 + 1) % TABLE_SIZE).astype(np.uint64)
MEGABYTE = 2**20 // 8  # of uint64
CHAINS = {  # what is measured: the kernel, its chain, and the size of the table on a GPU
    "register": (chase_register, REGISTER_CHAIN, TABLE_SIZE),
    "constant": (chase_constant, CONSTANTS, TABLE_SIZE),
    "shared": (chase_shared, CONSTANTS, TABLE_SIZE),
    "local, in the L1 cache": (chase_local, CONSTANTS, TABLE_SIZE),
    "global, in the L1 cache": (chase_global, None, MEGABYTE // 64),
    "global, in the L2 cache": (chase_global, None, 2 * MEGABYTE),
    "global, in DRAM": (chase_global, None, 512 * MEGABYTE),
}

# %% [markdown]
# ## Running them
# In the simulator with small tables, to see that each kernel does what it says. On a GPU with CUDA events: the fastest
# of several launches, each of which starts at another place of the chain, so that DRAM is not in a cache by then.


# %%
def measure_latencies(steps):
    """Nanoseconds a step for each kind of memory; on a GPU only, else None, once the results have been checked."""
    found = {}
    for name, (kernel, chain, size) in CHAINS.items():
        table = random_cycle(size if ON_GPU else TABLE_SIZE) if chain is None else chain
        on_device, out = cuda.to_device(table), cuda.to_device(np.zeros(1, np.uint64))

        def launch(n, kernel=kernel, on_device=on_device, out=out):
            kernel[1, 1](on_device, np.uint64(n * 9973 % on_device.size), steps, out)

        launch(3)
        assert out.copy_to_host()[0] == follow(table, 3 * 9973 % len(table), steps), name
        found[name] = milliseconds(launch) / steps * 1e6 if ON_GPU else None
    return found


latencies = {}
if ON_GPU:
    latencies = measure_latencies(steps=1 << 14)
    print(f"\n{cuda.get_current_device().name}\n{'':24} {'table, KB':>10} {'ns a step':>10}")
    for name, ns in latencies.items():
        print(f"{name:24} {CHAINS[name][2] / 128:10,.1f} {ns:10.1f}")
elif SIMULATED:
    latencies = measure_latencies(steps=20)
    print(f"\nin the simulator: {len(latencies)} chains lead where they should")
else:
    print("\nno GPU: nothing to time")


# %%
def draw(plt):
    """A bar for each kind of memory."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.barh(list(latencies), list(latencies.values()), log=True)
    axes.invert_yaxis()
    axes.set(xlabel="ns a step", title=cuda.get_current_device().name)
    return figure


if ON_GPU:
    picture(draw)
