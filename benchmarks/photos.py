"""Photographs restored in tiles of several sides: what the tiles leave in the images, and their time.

seam          gradient energy at the borders of the tiles over that elsewhere; about 1 without a trace
line, between how far the lines along the borders stand out from what is around them, in levels of 255, and those
              half-way between the borders: alike without a trace
checkerboard  energy of what repeats every 8 pixels, two latents of the small models, dB above the spectrum around
colour        largest difference of the mean of a channel to that of the enlarged input, in levels of 255

Means over the images; of "bicubic", and of one pass, at the borders that the smallest tiles have. Without `--photos`
the four evaluation photographs of the dependencies are degraded and restored. `--sheets` writes each image as a PNG:
bicubic, and every model in its own tiles.

    python benchmarks/photos.py [--photos FOLDER] [--first 20] [--tiles 128 256 512 0] [--out results/benchmarks]
"""

import argparse
from pathlib import Path
from statistics import mean

import torch
from PIL import Image
from record import write_record

from omgsr_lib.data.photos import find_photos, open_photo, to_image, to_pixels
from omgsr_lib.metrics.measures import checkerboard, seam_energy, seam_lines
from omgsr_lib.model import OMGSR
from omgsr_lib.presets import default_tile
from omgsr_lib.restore.pipeline import restore
from omgsr_lib.study.notebook import study_pairs
from omgsr_lib.study.tilings import tile_borders


MODELS = ("mini-s", "mini-f")
SCALE = 4


def metrics(picture, enlarged, rows, columns):
    """The metrics of one restored PIL image; without a border those of seams are left out."""
    pixels, reference = to_pixels(picture)[None], to_pixels(enlarged)[None]
    row = {
        "checkerboard": checkerboard(pixels).item(),
        "colour": float((pixels - reference).mean(dim=(2, 3)).abs().max()) * 127.5,
    }
    if rows or columns:
        at, between = seam_lines(pixels, reference, rows, columns)
        row |= {"seam": seam_energy(pixels, rows, columns).item(), "line": at.item(), "between": between.item()}
    return row


def means(rows):
    """The mean of every metric over the images that have it."""
    return {key: mean(row[key] for row in rows if key in row) for key in sorted({key for row in rows for key in row})}


def measure(model, pictures, tile, smallest):
    """`(row, restored)` of one model and side of tiles (0: one pass)."""
    restored, rows, seconds = [], [], 0.0
    for picture in pictures:
        result = restore(model, picture, scale=SCALE, tile=tile or None, progress=False)
        seconds += result.seconds["predict"]
        restored += result.images
        _, borders = tile_borders(model, restored[-1].size, tile or smallest)
        rows.append(metrics(restored[-1], enlarged(picture), *borders))
    return means(rows) | {"seconds": seconds}, restored


def enlarged(picture):
    return picture.resize([SCALE * side for side in picture.size], Image.BICUBIC)


def write_sheet(path, pictures):
    sheet = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    for k, picture in enumerate(pictures):
        sheet.paste(picture, (k * picture.width, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", help="folder of low-quality photographs, list of paths or manifest")
    parser.add_argument("--first", type=int, default=20, help="so many of them")
    parser.add_argument("--tiles", type=int, nargs="+", default=[128, 256, 512, 0], help="0 is one pass")
    parser.add_argument("--sheets", type=Path, help="folder for the images side by side")
    parser.add_argument("--out", type=Path, help="folder for a JSON file of this run")
    args = parser.parse_args()
    torch.set_num_threads(1)

    if args.photos:
        paths = find_photos(args.photos)[: args.first]
        pictures = {path.stem: open_photo(path) for path in paths}
    else:
        pairs = study_pairs(None, size=512, scale=SCALE, crops_per_photo=1)
        pictures = {pair.name: to_image(pair.lq_small) for pair in pairs}
    smallest, inputs = min(filter(None, args.tiles), default=128), list(pictures.values())
    cases, sheets = {}, [[enlarged(picture)] for picture in inputs]
    print(f"{len(pictures)} photographs, enlarged {SCALE} times")
    print(f"{'':20s} seam  line  between  checkerboard  colour  seconds")
    for name in MODELS:
        model = OMGSR.from_pretrained(name).merge()
        for tile in args.tiles:
            label = f"{name}, " + (f"tiles of {tile}" if tile else "one pass")
            cases[label], restored = measure(model, inputs, tile, smallest)
            if tile == default_tile(name):
                for sheet, picture in zip(sheets, restored, strict=True):
                    sheet.append(picture)
            print(line(label, cases[label]), flush=True)
    rows = [metrics(sheet[0], sheet[0], *tile_borders(model, sheet[0].size, smallest)[1]) for sheet in sheets]
    cases["bicubic"] = {key: value for key, value in means(rows).items() if key in ("seam", "checkerboard")}
    print(line("bicubic", cases["bicubic"]))
    if args.sheets is not None:
        for name, sheet in zip(pictures, sheets, strict=True):
            write_sheet(args.sheets / f"{name}.png", sheet)
    name = f"photos_{Path(args.photos).stem}" if args.photos else "photos"
    write_record(args.out, name, {"photographs": list(pictures), "scale": SCALE, "cases": cases})


def line(label, row):
    """A row of the printed table."""
    widths = {"seam": 5, "line": 5, "between": 8, "checkerboard": 13, "colour": 7, "seconds": 8}
    cells = (f"{row[key]:{width}.2f}" if key in row else " " * width for key, width in widths.items())
    return f"{label:20s}" + " ".join(cells)


if __name__ == "__main__":
    main()
