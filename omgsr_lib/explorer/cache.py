"""The frame cache of the explorer: a part of one photograph, injected at many timesteps; files in a folder.

    case.json              what is computed: photograph, strength, part, side, timesteps; t* and SNR of each variant
    lq.png, photo.png      the low-quality image, enlarged, and the photograph; the same image where it is taken as it
                           is, which leaves no reference and no scores
    curves.csv             variant, timestep, snr (dB, of the noisy latent), gap (sliced Wasserstein to the LQ latent)
    index.csv              variant, timestep, file, psnr_prior, psnr_tuned (dB, Y): a row per computed frame
    s_t0325.png            a frame: the images of `PANELS` side by side, pixel by pixel

A frame is written before its row, each whole or not at all, so what the index names is complete at any moment.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..images.detail import most_detailed
from ..utils.files import atomic_folder, atomic_write


PANELS = ("noisy", "prior", "tuned")  # decoded z_t of the photograph; one step of the prior; of the tuned model
FORMAT = 2
ABOUT = {"format", "photo", "strength", "box", "warning", "size", "timesteps", "last", "psnr", "centre", "variants"}
CURVES = ["variant", "timestep", "snr", "gap"]
INDEX = ["variant", "timestep", "file", "psnr_prior", "psnr_tuned"]


class FrameCache:
    """The cache in `folder`, read and checked. `create` makes one, `add` gives it a frame.

    Attributes:
        about: the content of `case.json`, a dictionary.
        lq, photo: PIL images of `about["size"]` pixels.

    Raises `FileNotFoundError` for a missing file, `ValueError` for one that is damaged or of another version.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.about = self._read_about()
        size = self.about["size"]
        self.lq, self.photo = (self._image(name, (size, size)) for name in ("lq.png", "photo.png"))
        self._curves = self._read_curves()
        self._rows = {(row["variant"], row["timestep"]): row for row in self._table("index.csv", INDEX)}
        for variant, timestep in self._rows:
            self.panels(variant, timestep)

    @classmethod
    def create(cls, folder, *, about, lq, photo, curves):
        """Write an empty cache to `folder`, in place of the one there.

        `about` holds the facts of `ABOUT` besides format, size and centre: `psnr` and the variants' `snr` are None
        where there is no reference, `box` is the part of the photograph, its edges as shares of the sides; `lq` and
        `photo` are PIL images of one square size; `curves` is a data frame with the columns of `CURVES`, for all
        timesteps of the cache and others.
        """
        about = {"format": FORMAT, "size": photo.width, "centre": detail_centre(photo)} | about
        with atomic_folder(folder) as part:
            (part / "case.json").write_text(json.dumps(about, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            lq.save(part / "lq.png")
            photo.save(part / "photo.png")
            curves[CURVES].to_csv(part / "curves.csv", index=False, float_format="%.6g", na_rep="nan")
            pd.DataFrame(columns=INDEX).to_csv(part / "index.csv", index=False)
        return cls(folder)

    @property
    def variants(self):
        return list(self.about["variants"])

    @property
    def reference(self):
        """The image that the others are compared with: "photo", or "lq" where the photograph is taken as it is."""
        return "lq" if self.about["psnr"] is None else "photo"

    @property
    def timesteps(self):
        """Every timestep that the cache is made for, rising."""
        return self.about["timesteps"]

    def has(self, timestep):
        """True where the frames of all variants at `timestep` are computed."""
        return all((variant, timestep) in self._rows for variant in self.variants)

    @property
    def missing(self):
        """The timesteps that are not computed yet."""
        return [timestep for timestep in self.timesteps if not self.has(timestep)]

    def add(self, timestep, frames):
        """Write the frames at `timestep`: `{variant: ({panel: PIL image}, {"psnr_prior": dB, "psnr_tuned": dB})}`."""
        rows = dict(self._rows)
        for variant, (panels, scores) in frames.items():
            file = f"{variant}_t{timestep:04d}.png"
            with atomic_write(self.folder / file) as part:
                side_by_side(panels).save(part, format="PNG")
            rows[variant, timestep] = {"variant": variant, "timestep": timestep, "file": file, **scores}
        with atomic_write(self.folder / "index.csv") as part:
            pd.DataFrame(rows.values(), columns=INDEX).to_csv(part, index=False, float_format="%.6g", na_rep="nan")
        self._rows = rows

    def panels(self, variant, timestep):
        """The images of a computed frame, `{panel: PIL image}`."""
        size = self.about["size"]
        row = self._image(self._rows[variant, timestep]["file"], (len(PANELS) * size, size))
        return {name: row.crop((i * size, 0, (i + 1) * size, size)) for i, name in enumerate(PANELS)}

    def score(self, variant, timestep, panel):
        """PSNR-Y in dB of panel "prior" or "tuned" of a computed frame."""
        return self._rows[variant, timestep][f"psnr_{panel}"]

    def curve(self, variant, name):
        """`(timesteps, values)`, arrays: the curve "snr" (infinite where there is no noise) or "gap" of a variant."""
        return self._curves[variant]["timestep"], self._curves[variant][name]

    def at(self, variant, name, timestep):
        """The curve "snr" or "gap" at one of `timesteps`."""
        timesteps, values = self.curve(variant, name)
        return float(values[timesteps == timestep][0])

    def _read_about(self):
        path = self.folder / "case.json"
        if not path.is_file():
            raise FileNotFoundError(f"A frame cache has a case.json: '{path}' is missing. Compute the cache again.")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as err:
            raise ValueError(f"'{path}' is damaged ({err}). Compute the cache again.") from err
        if not isinstance(about, dict) or about.get("format") != FORMAT or not ABOUT <= set(about):
            found = about.get("format") if isinstance(about, dict) else about
            raise ValueError(f"'{path}' must be of format {FORMAT}: got {found!r}. Compute the cache again.")
        return about

    def _read_curves(self):
        """`{variant: {column: array}}`, by rising timestep."""
        rows = sorted(self._table("curves.csv", CURVES), key=lambda row: row["timestep"])
        of_variant = {variant: [row for row in rows if row["variant"] == variant] for variant in self.variants}
        return {
            variant: {column: np.array([row[column] for row in rows]) for column in CURVES[1:]}
            for variant, rows in of_variant.items()
        }

    def _table(self, name, columns):
        """Rows of a CSV, dictionaries; timesteps are integers, values floats."""
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(f"A frame cache has its {name}: '{path}' is missing. Compute the cache again.")
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != columns:
                raise ValueError(
                    f"'{path}' needs the columns {', '.join(columns)}, got {reader.fieldnames}. Compute it again."
                )
            kinds = {"variant": str, "file": str, "timestep": int}
            try:
                return [{key: kinds.get(key, float)(row[key]) for key in columns} for row in reader]
            except (TypeError, ValueError) as err:
                raise ValueError(
                    f"'{path}' holds a value that is not a number ({err}). Compute the cache again."
                ) from err

    def _image(self, name, size):
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(f"A frame cache names a missing image: '{path}'. Compute the cache again.")
        try:
            with Image.open(path, formats=["PNG"]) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError) as err:
            raise ValueError(f"A cached image must be a readable PNG: '{path}' is not. Compute it again.") from err
        if image.size != size:
            raise ValueError(f"'{path}' must measure {size} pixels, got {image.size}. Compute the cache again.")
        return image


def side_by_side(panels):
    """The images of a frame, `{panel: PIL image}`, side by side in the order of `PANELS`."""
    size = panels[PANELS[0]].width
    row = Image.new("RGB", (len(PANELS) * size, size))
    for place, name in enumerate(PANELS):
        row.paste(panels[name], (place * size, 0))
    return row


def detail_centre(photo):
    """`[x, y]`, the centre of the square of 0.3 sides with the strongest structure.

    Structure is the sum of squared differences of neighbours in the photograph reduced four times: edges, not texture.
    """
    grey = np.asarray(photo.convert("L").reduce(4), dtype=float)
    side = round(0.3 * len(grey))
    left, top = most_detailed(grey, side, power=2)
    return [4 * left + 2 * side, 4 * top + 2 * side]
