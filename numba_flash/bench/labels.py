"""Labels beside points that cover neither one another nor a mark."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

DISTANCES = (7, 13, 21, 30, 42, 56, 72, 90, 110, 132)  # from mark to label, in points
DIRECTIONS = (0, 180, 45, 315, 135, 225, 90, 270, *range(15, 360, 15))  # degrees, best first
FAR = 10  # a label farther away has a line to its mark
MARK = 5  # half a mark's width, in points
APART = 7  # from the middle of another mark
MARGIN = 1.5
NO_ROOM = (1000.0, 0.0)
ORDERS = 96

Box = Sequence[float]  # left, bottom, right, top, in pixels
Place = tuple[float, float]  # distance and direction


def settle(figure: Any) -> None:
    """Lay a figure out now, and keep it so: what is placed from here on stays where it is."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def place_labels(
    axis: Any, names: Sequence[str], points: Sequence[tuple[float, float]], ink: str, faint: str
) -> list[Any]:
    """Write a name beside each point, as near as there is room, and return the annotations.

    Room is within the axes, and away from other marks and from text and lines that are there already. The names are
    placed one after another; of several orders the one counts that leaves them nearest to their marks. The figure must
    have been settled, on a canvas that measures text.
    """
    room = Room(axis, names, points)
    numbers = list(range(len(points)))
    shuffled = random.Random(0)
    found = [room.places(shuffled.sample(numbers, len(numbers))) for _ in range(ORDERS)]
    places = min(found, key=lambda places: sum(distance for distance, _ in places.values()))
    return [annotate(axis, names[n], points[n], places[n], ink, faint) for n in numbers]


class Room:
    """What labels must not cover, and their sizes, in pixels."""

    def __init__(self, axis: Any, names: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
        renderer, self.pixel = axis.figure.canvas.get_renderer(), axis.figure.dpi / 72
        self.at = [axis.transData.transform(point) for point in points]
        self.marks = [around(point, APART * self.pixel) for point in self.at]
        paths = [axis.transData.transform(line.get_xydata()) for line in axis.lines]
        self.lines = [box for path in paths for box in boxes_along(path, self.pixel)]
        if legend := axis.get_legend():
            self.lines.append(legend.get_window_extent(renderer).extents)
        self.texts = [text.get_window_extent(renderer).extents for text in axis.texts]
        self.within = axis.get_window_extent(renderer).extents
        self.sizes = [size(axis, name, renderer) for name in names]
        self.free = [list(self.free_places(n)) for n in range(len(names))]

    def free_places(self, n: int) -> Iterator[tuple[Place, list[Box]]]:
        """Where a label may be as long as there is no other one, and what it takes there; nearest first."""
        others = boxes([*self.marks[:n], *self.marks[n + 1 :], *self.texts])
        everything = np.concatenate([others, boxes(self.lines)])
        mine = boxes([around(self.at[n], MARK * self.pixel)])
        in_the_way = boxes([box for box in others if not overlap(box, mine)])  # a line may leave a mark beside its own
        for place in itertools.product(DISTANCES, DIRECTIONS):
            box = self.box(n, place)
            if inside(box, self.within) and not overlap(box, everything):
                line = self.line_to(n, place)
                if not any(overlap(part, in_the_way) for part in line):
                    yield place, [box, *line]

    def places(self, order: Sequence[int]) -> Mapping[int, Place]:
        """Where each label goes, if they are placed in this order."""
        taken: list[Box] = []
        found = {}
        for n in order:
            found[n] = NO_ROOM
            words = boxes(taken)
            for place, wanted in self.free[n]:
                if not any(overlap(box, words) for box in wanted):
                    found[n] = place
                    taken += wanted
                    break
        return found

    def box(self, n: int, place: Place) -> Box:
        """What a label would take, with a margin."""
        (x, y), (width, height) = self.at[n], self.sizes[n]
        (dx, dy), (across, up) = offset(place), corner(place)
        left, bottom = x + dx * self.pixel - across * width, y + dy * self.pixel - up * height
        margin = MARGIN * self.pixel
        return left - margin, bottom - margin, left + width + margin, bottom + height + margin

    def line_to(self, n: int, place: Place) -> list[Box]:
        """The line from a mark to its label, if that is far, in small boxes."""
        distance, degrees = place
        if distance <= FAR:
            return []
        ends = [self.at[n] + self.pixel * offset((far, degrees)) for far in (MARK, distance)]
        return boxes_along(ends, self.pixel / 2)


def annotate(axis: Any, name: str, point: tuple[float, float], place: Place, ink: str, faint: str) -> Any:
    """A name in its place, with a line to its mark if that is far; where there is no room, right beside the mark."""
    place = (DISTANCES[0], DIRECTIONS[0]) if place == NO_ROOM else place
    across, up = corner(place)
    line = {"arrowstyle": "-", "color": faint, "linewidth": 0.7, "shrinkA": 0, "shrinkB": MARK, "relpos": (across, up)}
    return axis.annotate(
        name,
        point,
        offset(place),
        textcoords="offset points",
        ha={0: "left", 0.5: "center", 1: "right"}[across],
        va={0: "bottom", 0.5: "center", 1: "top"}[up],
        color=ink,
        zorder=4,
        arrowprops=line if place[0] > FAR else None,
    )


def offset(place: Place) -> Any:
    """From a mark to its label, in points."""
    distance, degrees = place
    return distance * np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def corner(place: Place) -> tuple[float, float]:
    """Which point of a label is nearest to its mark: 0, 0.5 or 1 across and up."""
    directions = offset((1.0, place[1]))
    across, up = (0.5 if abs(part) < 0.3 else 0 if part > 0 else 1 for part in directions)
    return across, up


def size(axis: Any, text: str, renderer: Any) -> tuple[float, float]:
    """Width and height of a text in pixels."""
    probe = axis.text(0.5, 0.5, text, transform=axis.transAxes)
    box = probe.get_window_extent(renderer)
    probe.remove()
    return box.width, box.height


def around(point: Any, reach: float) -> Box:
    """The box whose middle is a point."""
    x, y = point
    return x - reach, y - reach, x + reach, y + reach


def boxes_along(corners: Any, step: float) -> list[Box]:
    """Small boxes that cover a line through corners in pixels."""
    found = []
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        count = max(1, int(math.hypot(x1 - x0, y1 - y0) / (4 * step)))
        for n in range(count + 1):
            found.append(around((x0 + (x1 - x0) * n / count, y0 + (y1 - y0) * n / count), step))
    return found


def boxes(these: Sequence[Box]) -> Any:
    """One box a row."""
    return np.reshape(these, (-1, 4))


def inside(box: Box, outer: Box) -> bool:
    """Is one box within another?"""
    return box[0] >= outer[0] and box[1] >= outer[1] and box[2] <= outer[2] and box[3] <= outer[3]


def overlap(box: Box, others: Any) -> bool:
    """Has a box a point in common with one of several?"""
    left, bottom, right, top = others.T
    return bool(np.any((box[0] < right) & (left < box[2]) & (box[1] < top) & (bottom < box[3])))
