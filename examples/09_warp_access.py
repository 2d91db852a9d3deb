# %% [markdown]
# # 9. What the access of a warp costs
# Threads run in warps of 32, which read and write together. What an access costs depends on the 32 addresses: on how
# they lie in the sectors of global memory and in the banks of shared memory. Both costs are counted here, everywhere;
# on an NVIDIA GPU with 4 GB they are also measured, and with NUMBA_ENABLE_CUDASIM=1 the kernels run in the simulator.

# %%
import numpy as np
from gpu import ON_GPU, milliseconds
from numba import cuda
from pictures import picture

from numba_flash.simulator import SIMULATED

WARP, BANKS = 32, 32

# %% [markdown]
# ## Coalescing
# Global memory comes in sectors of 32 bytes. A warp's access costs as many sectors as its 32 addresses fall into: four
# when neighbours read neighbouring float32, 32 when each thread has a sector to itself and wastes 28 bytes of it.


# %%
def sectors(addresses):
    """How many 32-byte sectors the byte addresses of a warp touch."""
    return len({address // 32 for address in addresses})


# %% [markdown]
# ## Bank conflicts
# Shared memory has 32 banks; the 4-byte word w lies in bank w % 32. A bank serves one word at a time, to any number of
# threads. So an access takes as many turns as the busiest bank has different words to serve.


# %%
def turns(words):
    """How many turns shared memory takes for the word numbers of a warp."""
    return max(sum(word % BANKS == bank for word in set(words)) for bank in range(BANKS))


STRIDES = (0, 1, 2, 4, 8, 16, 32, 33)
sector_counts = {stride: sectors(4 * stride * lane for lane in range(WARP)) for stride in STRIDES}
turn_counts = {stride: turns([stride * lane for lane in range(WARP)]) for stride in STRIDES}
print("thread n reads word stride * n")
print("stride           " + "".join(f"{stride:5}" for stride in STRIDES))
print("global: sectors  " + "".join(f"{count:5}" for count in sector_counts.values()))
print("shared: turns    " + "".join(f"{count:5}" for count in turn_counts.values()))
print(f"one word further on, global: {sectors(4 * (lane + 1) for lane in range(WARP))} sectors")

# %% [markdown]
# A column of a 32 x 32 tile is stride 32: the worst case. One more word in each row makes it stride 33: the best. That
# is why tiles in this package's kernels have padded rows. The kernel below measures it: all the threads of a block walk
# through a shared table, each step at the address that the last step read.


# %%
@cuda.jit
def walk_with_stride(table, stride, steps, out):
    """Thread n starts at stride * n; the table leads from each place to the one 32 further on, in the same bank."""
    tile = cuda.shared.array(1024, np.uint32)
    n = cuda.threadIdx.x
    for place in range(n, 1024, cuda.blockDim.x):
        tile[place] = table[place]
    cuda.syncthreads()  # the table is complete before anyone walks
    place = tile[stride * (n % 32) % 1024]
    for _ in range(steps):
        place = tile[place]
    out[n] = place


@cuda.jit
def copy_with_stride(x, stride, out):
    """out[i] = x[stride * i]."""
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[stride * i]


# %% [markdown]
# ## Running them
# In the simulator they are small, to see that each kernel does what it says.


# %%
def measure_strides(steps, count):
    """For each stride: ns a step of walk_with_stride, and useful GB/s of copy_with_stride; None without a GPU."""
    table = (np.arange(1024, dtype=np.uint32) + 32) % 1024
    x = cuda.to_device(np.arange(count * max(STRIDES), dtype=np.uint32))
    on_device = cuda.to_device(table)
    threads, block = (1024, 256) if ON_GPU else (WARP, WARP)
    found = {}
    for stride in STRIDES:
        places, out = cuda.to_device(np.zeros(threads, np.uint32)), cuda.to_device(np.zeros(count, np.uint32))

        def walk(_, stride=stride, places=places):
            walk_with_stride[1, threads](on_device, stride, steps, places)

        def copy(_, stride=stride, out=out):
            copy_with_stride[count // block, block](x, stride, out)

        walk(0)
        copy(0)
        begin = stride * (np.arange(threads) % 32)
        assert np.array_equal(places.copy_to_host(), (begin + 32 * (steps + 1)) % 1024), stride
        assert np.array_equal(out.copy_to_host(), stride * np.arange(count)), stride
        found[stride] = (milliseconds(walk) / steps * 1e6, 8 * count / milliseconds(copy) / 1e6) if ON_GPU else None
    return found


strides = {}
if ON_GPU:
    strides = measure_strides(steps=1 << 14, count=1 << 24)
    print(f"\n{cuda.get_current_device().name}\nstride   shared, ns a step   copied, GB/s")
    for stride, (ns, rate) in strides.items():
        print(f"{stride:6} {ns:19.1f} {rate:14.0f}")
elif SIMULATED:
    strides = measure_strides(steps=3, count=64)
    print(f"\nin the simulator: walks and copies with {len(strides)} strides end where they should")


# %%
def draw(plt):
    """What a warp's access costs by stride; on a GPU, the measured times beside it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = [str(stride) for stride in STRIDES]
    left.bar(names, sector_counts.values(), label="sectors, counted")
    right.bar(names, turn_counts.values(), label="turns, counted")
    if ON_GPU:
        best_rate, best_ns = strides[1][1], strides[1][0]
        left.plot(names, [4 * best_rate / rate for _, rate in strides.values()], "ko", label="time, stride 1 = 4")
        right.plot(names, [ns / best_ns for ns, _ in strides.values()], "ko", label="time, stride 1 = 1")
    left.set(title="global memory", xlabel="stride")
    right.set(title="shared memory", xlabel="stride")
    left.legend()
    right.legend()
    return figure


picture(draw)
