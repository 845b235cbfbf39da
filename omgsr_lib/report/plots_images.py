"""Figures of photographs: methods side by side, one detail of each, sheets, a large image and its tiles."""

import numpy as np
from matplotlib.patches import Rectangle

from ..images.detail import most_detailed
from .plots import METHOD_LABELS, PAGE, figure, panels


BOX = "#E69F00"  # frames of boxes in images


@figure
def compare_crops(rows, labels, scores=None, boxes=None, names=None):
    """Restored images side by side: a row per photograph, a column per method, native pixels, scores below.

    `rows` holds lists of images (PIL or `(H, W, 3)` arrays) in the order of `labels`; `scores` strings of the same
    shape; `boxes` one (left, top, right, bottom) per row, the same crop for all its images; `names` one per row,
    written at its left.
    """
    if any(len(row) != len(labels) for row in rows):
        raise ValueError(f"Each row needs {len(labels)} images, one per label, got {[len(row) for row in rows]}.")
    frames = boxes or [None] * len(rows)
    cropped = [[cut(image, box) for image in row] for row, box in zip(rows, frames, strict=True)]
    width = PAGE / len(labels)
    heights = [row[0].shape[0] / row[0].shape[1] * width + (0.14 if scores else 0.02) for row in cropped]
    fig, axes = panels(len(rows), len(labels), (PAGE, sum(heights) + 0.2), height_ratios=heights)
    fig.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for i, row in enumerate(cropped):
        for j, image in enumerate(row):
            show_image(axes[i, j], image)
            if scores:
                axes[i, j].set_xlabel(scores[i][j], labelpad=2, fontsize=6.5)
        if names:
            axes[i, 0].set_ylabel(names[i], labelpad=2, fontsize=7)
    for ax, label in zip(axes[0], labels, strict=True):
        ax.set_title(METHOD_LABELS.get(label, label), fontsize=7, loc="center", pad=3)
    return fig


@figure
def contact_sheet(images, labels, columns=None):
    """Images (PIL or `(H, W, 3)` arrays) of one size in rows, each with its label above ("" for none)."""
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"A contact sheet needs images with one label each, got {len(images)} and {len(labels)}.")
    columns = columns or min(5, len(images))
    count = -(-len(images) // columns)
    images = [np.asarray(image) for image in images]
    width = PAGE / columns
    height = images[0].shape[0] / images[0].shape[1] * width + (0.14 if any(labels) else 0.02)
    fig, axes = panels(count, columns, (PAGE, count * height + 0.05))
    fig.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for ax in axes.flat[len(images) :]:
        ax.set_visible(False)
    for ax, image, label in zip(axes.flat, images, labels, strict=False):
        show_image(ax, image)
        if label:
            ax.set_title(label, fontsize=6.5, fontweight="normal", loc="center", pad=2)
    return fig


@figure
def plot_boxed_crops(rows, labels, boxes, scores=None):
    """One box of each photograph as every method shows it, with its score below; first the photograph with the box.

    Args:
        rows: per photograph a list of images of one size (PIL or arrays), the photograph itself last.
        labels: method of each column.
        boxes: per photograph (left, top, right, bottom), cut from all of its images alike.
        scores: per photograph a text for each image, "" for none.
    """
    if any(len(row) != len(labels) for row in rows) or len(boxes) != len(rows):
        raise ValueError(
            f"Each of {len(rows)} photographs needs {len(labels)} images, one per label, and a box; got "
            f"{[len(row) for row in rows]} images and {len(boxes)} boxes."
        )
    columns = len(labels) + 1
    width = PAGE / columns
    fig, axes = panels(len(rows), columns, (PAGE, len(rows) * (width + 0.16) + 0.15))
    fig.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for number, (row, box) in enumerate(zip(rows, boxes, strict=True)):
        show_image(axes[number, 0], np.asarray(row[-1]))
        axes[number, 0].add_patch(_frame(box, 1.0))
        for place, image in enumerate(row, start=1):
            show_image(axes[number, place], cut(image, box))
            if scores:
                axes[number, place].set_xlabel(scores[number][place - 1], labelpad=2, fontsize=6)
    for ax, label in zip(axes[0], ["", *labels], strict=True):
        ax.set_title(METHOD_LABELS.get(label, label), fontsize=6.5, loc="center", pad=3)
    return fig


@figure
def plot_tiles(images, tiles, boxes):
    """A large image: a row per method, the whole beside boxes in native pixels; in the first row the tiles outlined.

    Args:
        images: `{method: PIL image or (H, W, 3) array}` of one size, the first restored in tiles.
        tiles: data frame with a row per tile: left, top, right, bottom in pixels.
        boxes: (left, top, right, bottom) of the details, squares.
    """
    height, width = np.asarray(next(iter(images.values()))).shape[:2]
    ratios = [width / height] + [1] * len(boxes)
    side = (PAGE - 0.15) / sum(ratios)
    fig, axes = panels(len(images), len(ratios), (PAGE, len(images) * (side + 0.02) + 0.32), width_ratios=ratios)
    fig.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for line, (method, image) in zip(axes, images.items(), strict=True):
        for ax, box in zip(line, [None, *boxes], strict=True):
            show_image(ax, cut(image, box))
        line[0].set_ylabel(METHOD_LABELS.get(method, method), fontsize=7, labelpad=2)
    whole = axes[0, 0]
    for tile in tiles.itertuples():
        corner, sides = (tile.left, tile.top), (tile.right - tile.left, tile.bottom - tile.top)
        whole.add_patch(Rectangle(corner, *sides, fill=False, ec="white", lw=0.4, alpha=0.8))
    whole.set_title(f"{width} x {height} pixels", fontsize=7, pad=3)
    for number, (ax, box) in enumerate(zip(axes[0, 1:], boxes, strict=True), start=1):
        whole.add_patch(_frame(box, 1.2))
        whole.text(box[0], box[1], str(number), color="white", fontsize=6, va="bottom",
                   bbox=dict(facecolor=BOX, lw=0, pad=1))  # fmt: skip
        ax.set_title(f"Detail {number}, native pixels", fontsize=7, pad=3)
    note = f"White: outlines of the {len(tiles)} tiles, which overlap and are blended; a band between two lines is an "
    fig.supxlabel(note + "overlap. Orange: details, where four tiles meet", fontsize=6.5)
    return fig


def joint_boxes(image, tiles, side, count=2):
    """`count` boxes of `side` pixels around places where four tiles overlap, apart, those with the most detail.

    `tiles` as in `plot_tiles`. Detail is the mean absolute difference of neighbouring pixels.
    """
    grey = np.asarray(image, dtype=float).mean(axis=2)
    boxes = []
    for y in _joints(tiles["top"], tiles["bottom"]):
        for x in _joints(tiles["left"], tiles["right"]):
            left, top = (
                min(max(at - side // 2, 0), end - side) for at, end in ((x, grey.shape[1]), (y, grey.shape[0]))
            )
            part = grey[top : top + side, left : left + side]
            detail = np.abs(np.diff(part, axis=0)).mean() + np.abs(np.diff(part, axis=1)).mean()
            boxes.append((detail, (left, top, left + side, top + side)))
    chosen = []
    for _, box in sorted(boxes, reverse=True):
        if len(chosen) < count and all(abs(box[0] - o[0]) >= side or abs(box[1] - o[1]) >= side for o in chosen):
            chosen.append(box)
    return chosen


def _joints(starts, ends):
    """Middles of the overlaps along an axis."""
    starts, ends = sorted(set(starts)), sorted(set(ends))
    return [int(start + end) // 2 for start, end in zip(starts[1:], ends, strict=False)]


def detail_box(image, side):
    """(left, top, right, bottom) of the square with the most detail: mean absolute difference of neighbouring pixels.

    Searched on a grid of `side / 4`; the first of equal ones.
    """
    grey = np.asarray(image, dtype=float).mean(axis=2)
    left, top = most_detailed(grey, side, step=max(1, side // 4))
    return left, top, left + side, top + side


def cut(image, box):
    """The part (left, top, right, bottom) of an image as an array, all of it for None; `ValueError` outside it."""
    image = np.asarray(image)
    if box is None:
        return image
    left, top, right, bottom = box
    if not (0 <= left < right <= image.shape[1] and 0 <= top < bottom <= image.shape[0]):
        raise ValueError(f"A crop box must lie in its image of {image.shape[1]}x{image.shape[0]}, got {box}.")
    return image[top:bottom, left:right]


def show_image(ax, image):
    """An array `(H, W)` or `(H, W, 3)` without ticks or frame."""
    ax.imshow(image, cmap="gray" if image.ndim == 2 else None)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(False)


def _frame(box, width):
    left, top, right, bottom = box
    return Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec=BOX, lw=width)
