"""`python -m numba_flash`: what this machine can run (info), and the main job run once (demo)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m numba_flash", description="Exact attention in pure Python CUDA.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, the GPU, and which kernels can run here")
    demo = commands.add_parser("demo", help="attention forward and backward, checked and timed beside the formula")
    demo.add_argument("--length", type=int, help="sequence length (2048 on a CPU, 4096 on a GPU)")
    demo.add_argument("--heads", type=int, default=8, help="heads (8)")
    demo.add_argument("--dim", type=int, default=64, help="head dimension (64)")
    demo.add_argument("--causal", action="store_true", help="every query sees the keys before it only")
    chosen = parser.parse_args(arguments)
    if chosen.command == "info":
        from numba_flash.info import print_info

        return print_info()
    from numba_flash.demo import run_demo

    return run_demo(chosen.length, chosen.heads, chosen.dim, chosen.causal)


if __name__ == "__main__":
    raise SystemExit(main())
