"""Names written beside their points, so that a figure needs no legend: they leave marks, bars and each other free."""

import numpy as np
from matplotlib.transforms import Bbox


DIRECTIONS = [(1, 0.4), (-1, 0.4), (1, -1), (-1, -1), (0, 1.2), (0, -1.6), (1, 1.3), (-1, 1.3), (1, -0.3), (-1, -0.3)]
DISTANCES = (5, 7, 10, 14, 19, 25, 32, 40)  # points between a point and its name: the nearest free place wins
SIDES = {1: "left", -1: "right", 0: "center"}
DOUBT = 100  # square pixels that a name may rather cover than stand nearer to another point
LEADER = 7  # points from which on a line leads from the name to its point


def name_points(ax, points):
    """Write names into `ax`, which is otherwise complete.

    Args:
        points: list of `(name, (x, y), colour, font size)` in data coordinates; earlier ones choose first.

    A name stands nearer to its own point than to another. Where there is no free place it covers the least.
    """
    ax.figure.draw_without_rendering()
    renderer = ax.figure.canvas.get_renderer()
    taken, marks = _occupied(ax), [ax.transData.transform(point) for _, point, *_ in points]
    for name, point, colour, size in points:
        label = ax.annotate(name, point, (0, 0), textcoords="offset points", va="center", fontsize=size, color=colour)
        origin, pixel = ax.transData.transform(point), ax.figure.dpi / 72
        places = []
        for distance in DISTANCES:
            for direction in DIRECTIONS:
                offset = distance * np.array(direction)
                label.set(position=offset, ha=SIDES[direction[0]])
                box = label.get_window_extent(renderer)
                line = [_around(origin + share * pixel * offset, 0.5) for share in np.linspace(0.3, 1, 12)]
                line = line if distance > LEADER else []
                covered = sum(_overlap(part, other) for part in (box, *line) for other in taken)
                nearest = min(_distance(box, mark) for mark in marks)
                covered += DOUBT * (not line and nearest < _distance(box, origin) - 1)
                places.append((not _inside(box, ax.bbox), covered, len(places), offset, box, line))
            if min(places, key=lambda place: place[:3])[:2] == (False, 0):
                break
        *_, offset, box, line = min(places, key=lambda place: place[:3])
        label.set(position=offset, ha=SIDES[np.sign(offset[0])])
        if line:
            edge = 0 if offset[0] else box.height / 2 / pixel  # a name above or below is not struck through
            ax.annotate("", point, offset, textcoords="offset points",
                        arrowprops=dict(arrowstyle="-", lw=0.4, color=colour, shrinkA=edge, shrinkB=2))  # fmt: skip
        taken += [box, *line]


def _occupied(ax):
    """Boxes in pixels of the marks, lines and error bars of `ax`."""
    boxes = []
    for line in ax.lines:
        pixels = line.get_transform().transform(line.get_xydata())
        if line.get_linestyle() == "None":
            boxes += [_around(at, 3) for at in pixels]
        else:
            boxes += [box for ends in zip(pixels, pixels[1:], strict=False) for box in _along(*ends)]
    for bars in ax.containers:
        for segments in bars.lines[2]:
            boxes += [box for ends in segments.get_segments() for box in _along(*ax.transData.transform(ends))]
    return boxes


def _along(one, other):
    """Boxes that cover a straight line closely: one if it is level or upright."""
    parts = 1 if np.isclose(one, other).any() else 1 + int(np.abs(other - one).max() / 8)
    ends = np.linspace(one, other, parts + 1)
    return [Bbox([np.minimum(*pair), np.maximum(*pair)]).padded(1) for pair in zip(ends, ends[1:], strict=False)]


def _around(centre, radius):
    return Bbox([centre - radius, centre + radius])


def _distance(box, point):
    return np.linalg.norm(np.maximum(0, np.maximum(box.min - point, point - box.max)))


def _inside(box, frame):
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1


def _overlap(one, other):
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0) * max(height, 0)
