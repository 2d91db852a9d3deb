"""How the plots look: one colour and mark for everybody, on light and on dark pages, in SVG that is always the same."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

OURS = "numba_flash"
FONT = 9.5
RC = {
    "svg.hashsalt": OURS,
    "svg.fonttype": "none",  # text stays text, which is smaller than its outlines
    "font.size": FONT,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": FONT + 0.5,
    "axes.titlelocation": "left",
    "xtick.labelsize": FONT - 0.5,
    "ytick.labelsize": FONT - 0.5,
}


class Look(NamedTuple):
    """One provider's colours on light and on dark pages, and its mark."""

    light: str
    dark: str
    mark: str


# Of colours that differ also for the colour-blind the strongest is ours; marks tell apart what colours do not.
LOOKS = {
    OURS: Look("#d1490b", "#ff8a47", "o"),
    "CuPy formula": Look("#6b7280", "#9aa4b2", "s"),
    "torch math": Look("#8250c4", "#b99af0", "v"),
    "torch efficient": Look("#1f6feb", "#6cb0ff", "D"),
    "torch flash": Look("#0b8a6f", "#3fd0ae", "^"),
    "torch cuDNN": Look("#5c7a00", "#b5d63d", "P"),
    "FlexAttention": Look("#b8327f", "#f58fc4", "X"),
    "flash_attn": Look("#8a6116", "#dcb35c", "<"),
    "FlashAttention-3": Look("#0a7ea4", "#4fd1ff", ">"),
    "FlashAttention-4": Look("#24292f", "#e6edf3", "*"),
}


@dataclass(frozen=True)
class Theme:
    """The page that a plot stands on."""

    name: str
    ink: str
    faint: str
    grid: str

    def colour(self, provider: str) -> str:
        """The same everywhere; one who has none is drawn in ink."""
        return getattr(LOOKS[provider], self.name) if provider in LOOKS else self.ink


THEMES = (Theme("light", "#1f2328", "#59636e", "#d8dee4"), Theme("dark", "#e6edf3", "#9198a1", "#30363d"))


def mark(provider: str) -> str:
    """A provider's mark."""
    return LOOKS[provider].mark if provider in LOOKS else "."


class Picture(NamedTuple):
    """A plot's two files, and what it shows."""

    title: str
    light: Path
    dark: Path


def save(folder: Path, name: str, title: str, draw: Callable[[Any, Theme], None], size: tuple[float, float]) -> Picture:
    """Draw a figure for light and for dark pages into `name`_light.svg and `name`_dark.svg; backgrounds stay clear."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = []
    for theme in THEMES:
        with matplotlib.rc_context(RC | inks(theme)):
            figure = Figure(figsize=size, layout="constrained")
            FigureCanvasAgg(figure)  # measures text
            draw(figure, theme)
            paths.append(folder / f"{name}_{theme.name}.svg")
            text = io.StringIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Title": title})
            paths[-1].write_text(short(text.getvalue()))
    return Picture(title, *paths)


def short(svg: str) -> str:
    """The same picture in fewer bytes: coordinates to a hundredth of a point, nothing that says nothing."""
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)
    svg = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", svg)
    svg = re.sub(r' id="(?!m|p)[^"]*"', "", svg)  # marks and clip paths are referred to
    svg = re.sub(r"<g>\s*(<use[^>]*/>)\s*</g>", r"\1", svg)
    alike = r'<use [^>]*?( style="[^"]*")/>\s*(?:<use [^>]*?\1/>\s*)+'  # marks in a row, which say their style each
    svg = re.sub(alike, lambda found: f"<g{found[1]}>\n{found[0].replace(found[1], '')}</g>\n", svg)
    return re.sub(r">\s+<", ">\n<", re.sub(r" *\n(?=[LM] )", " ", svg)) + "\n"


def inks(theme: Theme) -> dict[str, str]:
    """Colours of text, axes and grid."""
    words = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), theme.ink)
    lines = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), theme.faint)
    return words | lines | {"grid.color": theme.grid, "grid.linewidth": "0.7", "legend.labelcolor": theme.ink}
