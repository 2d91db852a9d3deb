"""`python -m numba_flash`: what this machine can run (info), and the main job run once (demo)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m numba_flash", description="Exact attention in pure Python CUDA.")
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="versions, the GPU, and which kernels can run here")
    more = info.add_mutually_exclusive_group()
    more.add_argument("--ladder", action="store_true", help="what each kernel computes and moves, as Markdown")
    more.add_argument("--compiled", action="store_true", help="compile kernels without a GPU and check what they use")
    info.add_argument("--only", default="", metavar="NAME", help="with --compiled: kernels with NAME in their name")
    info.add_argument("--arch", default="", help="with --compiled: sm_75, sm_80 or sm_90")
    info.add_argument("--dtype", default="", help="with --compiled: float16, bfloat16, float32 or float64")
    info.add_argument("--dim", type=int, default=0, help="with --compiled: head dimension 32, 64, 128 or 256")
    demo = commands.add_parser("demo", help="attention forward and backward, checked and timed beside the formula")
    demo.add_argument("--length", type=int, help="sequence length (2048 on a CPU, 4096 on a GPU)")
    demo.add_argument("--heads", type=int, default=8, help="heads (8)")
    demo.add_argument("--dim", type=int, default=64, help="head dimension (64)")
    demo.add_argument("--causal", action="store_true", help="every query sees the keys before it only")
    chosen = parser.parse_args(arguments)
    if chosen.command == "info":
        from numba_flash.info import ladder_markdown, print_compiled, print_info

        if chosen.compiled:
            return print_compiled(chosen.only, chosen.arch, chosen.dtype, chosen.dim)
        if chosen.ladder:
            print(ladder_markdown())
            return 0
        return print_info()
    from numba_flash.demo import run_demo

    return run_demo(chosen.length, chosen.heads, chosen.dim, chosen.causal)


if __name__ == "__main__":
    raise SystemExit(main())
