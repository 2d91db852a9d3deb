"""The pictures: always the same bytes, small, one colour for everybody, labels that can be read."""

import re
from dataclasses import replace
from itertools import combinations

import pytest

pytest.importorskip("matplotlib")

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from numba_flash.bench import labels, peers, plots, style
from numba_flash.bench.cells import BACKWARD, ladder_plan, lengths_plan, rungs_for
from numba_flash.bench.contests import counts
from numba_flash.bench.measure import Row, ceilings
from numba_flash.bench.results import LADDER, LENGTHS, Result

from .fakes import CEILINGS, MACHINE


def row(cell, provider, peer, rate, operations=None, moved=None):
    milliseconds = cell.work / rate / (1e6 if cell.unit == "GB/s" else 1e9)
    return Row(cell.label, cell.dtype, cell.d, cell.N, cell.causal, provider, peer, milliseconds, rate, cell.unit, 0.5,
               1e-7, "", operations, moved)  # fmt: skip


def length_rows(dtype="bfloat16"):
    """Every peer, and rates that grow with N."""
    rows = []
    for cell in lengths_plan([dtype]):
        grown = 1 - 0.6 * (512 / cell.N) ** 0.7
        rows.append(row(cell, rungs_for(cell)[0].name, False, 560 * grown))
        for n, kind in enumerate(kind for kind in peers.KINDS if cell.operation != BACKWARD or kind.backward):
            rows.append(row(cell, kind.name, True, (80 + 70 * n) * grown))
    return rows


@pytest.fixture(scope="module")
def roof_rows():
    """Every rung on its first cell, at a rate of its own."""
    rng = np.random.default_rng(0)
    rows = {}
    for cell in ladder_plan():
        rungs = [rung for rung in rungs_for(cell) if rung.name not in rows]
        found = counts(cell, rungs)
        for rung in rungs:
            most = 2000 if cell.unit == "GB/s" else 600 if cell.dtype == "bfloat16" else 40
            rate = most * rng.random()
            rows[rung.name] = row(cell, rung.name, False, rate, *found[rung.name])
    return list(rows.values())


@pytest.fixture(scope="module")
def results(roof_rows):
    return [Result(LADDER, [*CEILINGS, *roof_rows], MACHINE), Result(LENGTHS, [*CEILINGS, *length_rows()], MACHINE)]


@pytest.fixture(scope="module")
def pictures(results, tmp_path_factory):
    return plots.write_plots(tmp_path_factory.mktemp("plots"), results)


def words(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_files(pictures):
    names = [path.name for picture in pictures for path in (picture.light, picture.dark)]
    assert names == [
        "nvidia_fake_1_roofline_light.svg", "nvidia_fake_1_roofline_dark.svg",
        "nvidia_fake_1_lengths_bfloat16_light.svg", "nvidia_fake_1_lengths_bfloat16_dark.svg",
    ]  # fmt: skip
    for picture in pictures:
        for path in (picture.light, picture.dark):
            assert path.stat().st_size < 60_000


def test_pictures_are_reproducible(pictures, results, tmp_path):
    for first, second in zip(pictures, plots.write_plots(tmp_path, results), strict=True):
        assert first.light.read_bytes() == second.light.read_bytes()
        assert first.dark.read_bytes() == second.dark.read_bytes()
        assert "2026" not in first.light.read_text() and first.light.read_bytes() != first.dark.read_bytes()


def test_curves(pictures):
    svg = pictures[1].light.read_text()
    found = words(svg)
    for text in ("forward, d = 64", "backward, d = 128", "1k", "16k", "bfloat16 TFLOP/s", "numba_flash",
                 "cuBLAS bfloat16 product: 700", *[kind.name for kind in peers.KINDS]):  # fmt: skip
        assert text in found
    assert not [text for text in found if text.startswith("flash2")]


def test_the_roofline_names_every_rung(pictures, roof_rows):
    found = words(pictures[0].light.read_text())
    assert {row.provider for row in roof_rows} <= set(found)
    assert {"memory: 3000 GB/s", "cuBLAS float32 product: 50", "cuBLAS float64 product: 60",
            "cuBLAS bfloat16 product: 700"} <= set(found)  # fmt: skip


def test_marks_are_where_the_figures_are(roof_rows):
    naive = next(row for row in roof_rows if row.provider == "matmul_naive")
    assert plots.y_of(naive) == pytest.approx(naive.rate)
    softmax = next(row for row in roof_rows if row.provider == "softmax_safe")
    assert plots.y_of(softmax) == pytest.approx(softmax.operations / softmax.milliseconds / 1e9)
    assert plots.x_of(naive) == pytest.approx(naive.operations / naive.bytes)


def test_a_peer_has_one_colour_in_every_picture(results, tmp_path):
    theme = style.THEMES[0]
    fewer = [replace_rows(results[1], lambda row: row.provider != "torch efficient")]
    (picture,) = plots.write_plots(tmp_path, fewer)
    for name in ("torch flash", "FlashAttention-4", style.OURS):
        assert theme.colour(name) in picture.light.read_text()
    assert theme.colour("torch efficient") not in picture.light.read_text()
    assert {kind.name for kind in peers.KINDS} | {peers.CUPY, style.OURS} == set(style.LOOKS)
    for shade in ("light", "dark"):
        assert len({getattr(look, shade) for look in style.LOOKS.values()}) == len(style.LOOKS)


def replace_rows(result, keep):
    return replace(result, rows=[row for row in result.rows if keep(row)])


def luminance(colour):
    """As WCAG 2 defines it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme, page", [(style.THEMES[0], "#ffffff"), (style.THEMES[1], "#0d1117")])
def test_colours_stand_out_from_the_page(theme, page):
    for colour, least in [(theme.ink, 7), (theme.faint, 4.5), *[(theme.colour(name), 3) for name in style.LOOKS]]:
        low, high = sorted((luminance(colour), luminance(page)))
        assert (high + 0.05) / (low + 0.05) >= least, colour


def drawn_roofline(rows):
    figure = Figure(figsize=plots.ROOFLINE, layout="constrained")
    FigureCanvasAgg(figure)
    plots.roofline_drawer(rows, ceilings(CEILINGS))(figure, style.THEMES[0])
    return figure, figure.axes[0]


def test_labels_of_the_roofline_cover_nothing(roof_rows):
    figure, axis = drawn_roofline(roof_rows)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = {text.get_text(): Text.get_window_extent(text, renderer).extents for text in axis.texts}
    boxes.pop("memory: 3000 GB/s")  # it is turned: its box is larger than it
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        assert not labels.overlap(a, np.array([b])), f"{one} covers {other}"
    for row in roof_rows:
        x, y = axis.transData.transform((plots.x_of(row), plots.y_of(row)))
        covering = [name for name, box in boxes.items() if box[0] < x < box[2] and box[1] < y < box[3]]
        assert not covering, f"{covering} on {row.provider}"
    within = axis.get_window_extent(renderer).extents
    assert all(labels.inside(boxes[row.provider], within) for row in roof_rows)


def test_labels_without_room_are_written_all_the_same():
    figure = Figure(figsize=(1, 1))
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    labels.settle(figure)
    notes = labels.place_labels(axis, ["a long name"] * 9, [(0.5, 0.5)] * 9, "black", "grey")
    assert [note.get_text() for note in notes] == ["a long name"] * 9


def test_nothing_to_draw(tmp_path):
    assert plots.write_plots(tmp_path, [Result(LADDER, CEILINGS, MACHINE), Result(LENGTHS, CEILINGS, MACHINE)]) == []


def test_short_svg_says_the_same():
    marks = '<use xlink:href="#m1" x="1.23456" y="2.0" style="fill: red"/>'
    text = f'<g id="line2d_1">\n <g>\n  {marks}\n  {marks}\n </g>\n</g>\n<text transform="rotate(-0 1 2)">0.12</text>'
    assert style.short(text) == (
        '<g>\n<g>\n<g style="fill: red">\n<use xlink:href="#m1" x="1.23" y="2.0"/>\n'
        '<use xlink:href="#m1" x="1.23" y="2.0"/>\n</g>\n</g>\n</g>\n<text>0.12</text>\n'
    )
