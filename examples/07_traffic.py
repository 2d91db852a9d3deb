# %% [markdown]
# # 7. What each rung moves
# The rungs of an operation do the same flops. What changes from one to the next is how many bytes its threads move for
# them. Each kernel's file states its traffic as a formula, which the tests compare, byte by byte, with what the
# simulator counts. This script draws the formulas. It needs no GPU.

# %%
from pictures import picture

from numba_flash.config import SIMULATOR
from numba_flash.ladder import BACKWARD, FORWARD, LADDER, MATMUL, SOFTMAX
from numba_flash.matmul_problem import MatmulProblem
from numba_flash.problem import AttentionProblem
from numba_flash.softmax_problem import SoftmaxProblem

D = 64
PEAK, BANDWIDTH = 67e12, 3.35e12  # float32 flop/s and bytes/s of an H100 SXM


def attention_problem(N):
    """One head, N queries and N keys of width D."""
    return AttentionProblem(1, 1, 1, N, N, D, D, "float32", scale=D**-0.5, first=-N, last=N)


PROBLEMS = {  # by operation: a problem of size N, and the bytes that nobody can avoid
    SOFTMAX: (lambda N: SoftmaxProblem(B=1, M=N, N=N, dtype="float32"), lambda N: 4 * 2 * N * N),
    MATMUL: (
        lambda N: MatmulProblem(B=1, M=N, N=N, K=N, dtype="float32", out_dtype="float32"),
        lambda N: 4 * 3 * N * N,
    ),
    FORWARD: (attention_problem, lambda N: 4 * N * (4 * D + 1)),
    BACKWARD: (attention_problem, lambda N: 4 * N * (8 * D + 1)),
}

# %% [markdown]
# ## One size
# Global bytes are what all threads ask of global memory, caches included: less may reach DRAM, when neighbours ask for
# the same number at the same time. Flops for each global byte say which limit comes first. An H100 makes 20 float32
# flops in the time of one byte from DRAM; a rung far below that waits for memory.

# %%
N = 4096
rungs = [rung for rung in LADDER if rung.on_gpu and "float32" in rung.dtypes]
moved = {}
print(f"N = {N}, d = {D}, float32; an H100 makes {PEAK / BANDWIDTH:.0f} flops in the time of a byte")
for operation, (make_problem, least) in PROBLEMS.items():
    problem = make_problem(N)
    print(f"\n{operation:26} {'Gflop':>7} {'global MB':>11} {'shared MB':>11} {'flops/byte':>11}")
    for rung in (rung for rung in rungs if rung.operation == operation):
        t, flops = rung.load().traffic(problem, SIMULATOR), rung.flops(problem)
        in_global, in_shared = t.global_read + t.global_written, t.shared_read + t.shared_written
        moved[rung.name] = in_global, in_shared, flops
        row = f"{flops / 1e9:7.2f} {in_global / 1e6:11,.1f} {in_shared / 1e6:11,.1f} {flops / in_global:11.1f}"
        print(f"{rung.name:26} {row}")
    print(f"{'the least possible':26} {'':7} {least(N) / 1e6:11,.1f}")

# %% [markdown]
# ## Growing N
# Attention's flops grow with N^2, and so does the traffic of every rung that is not tiled: for each query it reads all
# keys again. A tile of Br queries reads them once for all Br. The curves are parallel; the ladder shifts them down.

# %%
LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]
forward = [rung for rung in rungs if rung.operation == FORWARD]
curves = {}
print(f"\n{'global MB by N':26} " + " ".join(f"{N:>11,}" for N in LENGTHS))
for rung in forward:
    traffics = [rung.load().traffic(attention_problem(N), SIMULATOR) for N in LENGTHS]
    curves[rung.name] = [t.global_read + t.global_written for t in traffics]
    print(f"{rung.name:26} " + " ".join(f"{count / 1e6:11,.1f}" for count in curves[rung.name]))


# %%
def draw(plt):
    """Global bytes of the attention rungs against N, and flops for each byte of all rungs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for name, counts in curves.items():
        left.loglog(LENGTHS, counts, "o-", label=name)
    left.loglog(LENGTHS, [PROBLEMS[FORWARD][1](N) for N in LENGTHS], "k--", label="the least possible")
    left.set(xlabel="N", ylabel="bytes", title="global traffic of one head, forward")
    left.set_xticks(LENGTHS, LENGTHS)
    left.legend()
    right.barh(list(moved), [flops / in_global for in_global, _, flops in moved.values()])
    right.axvline(PEAK / BANDWIDTH, color="black", linestyle="--", label="an H100: flops in the time of a byte")
    right.set(xscale="log", xlabel="flops for each global byte", title=f"N = {LENGTHS[3]}")
    right.invert_yaxis()
    right.legend()
    return figure


picture(draw)
