"""`python -m numba_flash`: what runs here (info), the main job (demo), speed (bench, tune), proof (soak), cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

ABOUT_CACHE = (
    "The compiled kernels on disk. NUMBA_FLASH_CACHE_DIR names another folder for them, "
    "and NUMBA_FLASH_CACHE_SIZE the most that they may take, in MiB (512)."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    chosen = make_parser().parse_args(arguments)
    if chosen.command == "info":
        return run_info(chosen)
    if chosen.command == "tune":
        from numba_flash.bench.tune import run_tune

        return run_tune(chosen)
    if chosen.command == "bench":
        from numba_flash.bench.command import run_bench

        return run_bench(chosen)
    if chosen.command == "soak":
        from numba_flash.soak.command import run_soak

        return run_soak(chosen)
    if chosen.command == "cache":
        from numba_flash.cache_command import run_cache

        return run_cache(chosen)
    from numba_flash.demo import run_demo

    return run_demo(chosen.length, chosen.heads, chosen.dim, chosen.causal)


def run_info(chosen: argparse.Namespace) -> int:
    """The subcommand `info`."""
    from numba_flash.info import ladder_markdown, print_compiled, print_info

    if chosen.compiled:
        return print_compiled(chosen.only, chosen.arch, chosen.dtype, chosen.dim, chosen.usual)
    if chosen.ladder:
        print(ladder_markdown())
        return 0
    return print_info()


def make_parser() -> argparse.ArgumentParser:
    """The subcommands and their options."""
    parser = argparse.ArgumentParser(prog="python -m numba_flash", description="Exact attention in pure Python CUDA.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_info(commands.add_parser("info", help="versions, the GPU, and which kernels can run here"))
    demo = commands.add_parser("demo", help="attention forward and backward, checked and timed beside the formula")
    demo.add_argument("--length", type=int, help="sequence length (2048 on a CPU, 4096 on a GPU)")
    demo.add_argument("--heads", type=int, default=8, help="heads (8)")
    demo.add_argument("--dim", type=int, default=64, help="head dimension (64)")
    demo.add_argument("--causal", action="store_true", help="every query sees the keys before it only")
    add_bench(commands.add_parser("bench", help="check and time every kernel on a GPU beside its peers"))
    add_tune(commands.add_parser("tune", help="find the tile sizes with which a kernel is fastest on this GPU"))
    add_soak(commands.add_parser("soak", help="try properties on random cases for a given time"))
    add_cache(commands.add_parser("cache", help="the compiled kernels on disk", description=ABOUT_CACHE))
    return parser


def add_cache(cache: argparse.ArgumentParser) -> None:
    """The actions of `cache` and their options."""
    actions = cache.add_subparsers(dest="action", required=True)
    info = actions.add_parser("info", help="where compiled kernels are kept, how many, and how many bytes")
    how = info.add_mutually_exclusive_group()
    how.add_argument("-v", "--verbose", action="store_true", help="a table of the kernels, by name")
    how.add_argument("--json", action="store_true", help="for a program; times in seconds since 1970")
    actions.add_parser("clear", help="remove them; other files stay")
    warm = actions.add_parser("warm", help="compile the kernels that calls take by default, if they are not here yet")
    warm.add_argument("--arch", default="", help="for this architecture, such as sm_80 or sm_90; by default this GPU's")


def add_info(info: argparse.ArgumentParser) -> None:
    """The options of `info`."""
    more = info.add_mutually_exclusive_group()
    more.add_argument("--ladder", action="store_true", help="what each kernel computes and moves, as Markdown")
    more.add_argument("--compiled", action="store_true", help="compile kernels without a GPU and check what they use")
    info.add_argument("--only", default="", metavar="NAME", help="with --compiled: kernels with NAME in their name")
    info.add_argument("--arch", default="", help="with --compiled: sm_75, sm_80, sm_86 or sm_90")
    info.add_argument("--dtype", default="", help="with --compiled: float16, bfloat16, float32 or float64")
    info.add_argument("--dim", type=int, default=0, help="with --compiled: head dimension 32, 64, 128 or 256")
    info.add_argument("--usual", action="store_true", help="with --compiled: kernels of calls without options alone")


PARTS_HELP = """parts, and about how long they take on an H100:
  ladder   every kernel beside its peers, and the roofline's ceilings; 5 minutes
  lengths  attention on tensor cores at three lengths and head dimensions beside its peers; 3 minutes
  host     what one call costs the host beside its peers; 1 minute
  cold     imports, first results and a compilation in new processes; 3 minutes; some of it needs no GPU
  report   no measurement: pictures, and the README's section, from the CSV files of FOLDER; seconds

Each part leaves a CSV in FOLDER, so parts may be run one by one. More dtypes and FlexAttention, which compiles, take
longer; the 16-bit dtypes have more peers."""


def add_bench(bench: argparse.ArgumentParser) -> None:
    """The options of `bench`."""
    bench.formatter_class = argparse.RawDescriptionHelpFormatter
    bench.epilog = PARTS_HELP
    add = bench.add_argument
    add("folder", nargs="?", type=Path, metavar="FOLDER",
        help="for CSV and SVG; by default examples/benchmarks of a checkout, for a whole run")  # fmt: skip
    for option, word, text in (
        ("--part", "PART", "ladder, lengths, host, cold, report; all, without this option"),
        ("--only", "PATTERN", "kernels whose name begins with a pattern: flash2,matmul_registers"),
        ("--dtype", "DTYPE", "float16, bfloat16, float32, float64; without this option bfloat16 for the lengths, "
         "else float32, for the ladder a little float64 and bfloat16, for host and cold bfloat16"),
        ("--peers", "NAME", "peers whose name begins so, without case and punctuation: cupy,torch-flash; all that can "
         "be imported, without this option"),
    ):  # fmt: skip
        add(option, metavar=f"{word}[,{word}...]", type=names, action="extend", default=[], help=text)
    add("--quick", action="store_true", help="one small problem of each kind")
    add("--json", type=Path, metavar="FILE", help="write all rows here too")
    add("--readme", type=Path, metavar="FILE",
        help="write pictures and tables between <!-- speed --> and <!-- /speed --> of FILE")  # fmt: skip


def add_tune(tune: argparse.ArgumentParser) -> None:
    """The options of `tune`."""
    add = tune.add_argument
    add("kernel", metavar="KERNEL", help="a rung's name, as in flash2_forward")
    add("--dtype", default="", help="float32, or bfloat16 where the kernel takes no float32")
    add("--dim", type=int, default=64, help="head dimension (64)")
    add("--length", type=int, default=4096, help="sequence length, or side of the matrices (4096)")
    add("--causal", action="store_true", help="every query sees the keys before it only")


def names(text: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def add_soak(soak: argparse.ArgumentParser) -> None:
    """The options of `soak`."""
    add = soak.add_argument
    add("--seconds", type=float, default=60, help="how long (60)")
    add("--seed", type=int, help="of the first worker; drawn and printed by default")
    add("--backend", choices=("gpu", "cpu", "simulator"), help="gpu where there is one, else cpu")
    add("--workers", type=int, help="processes (as many as cores)")
    add("--only", nargs="+", action="extend", default=[], metavar="PROPERTY", help="those whose name contains one")
    add("--kernel", default="", metavar="NAME", help="attention by this rung or family (flash2)")
    add("--properties", type=Path, metavar="FOLDER", help="a package of test modules (tests/properties of a checkout)")
    add("--memory", type=float, default=4, metavar="GIB", help="the most that a worker may take (4)")
    add("--json", type=Path, metavar="FILE", help="write the counts and failures here too")


if __name__ == "__main__":
    raise SystemExit(main())
