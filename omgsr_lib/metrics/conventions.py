"""What the same images score under the conventions that papers use without saying so."""

import math

import pandas as pd
from torch.nn import functional as F

from . import measures
from .evaluate import open_pair, paired_files


COLOURS = {
    "Y of YCbCr (BT.601, 16-235)": measures.luma_601,
    "luma of YIQ (full range)": measures.luma_yiq,
    "RGB": measures.unit_range,
}
PUBLISHED = {
    "PSNR": ("Y of YCbCr (BT.601, 16-235)", 0, "none"),
    "SSIM": ("Y of YCbCr (BT.601, 16-235)", 0, "to 8 bits"),
}


def convention_scores(restored_dir, reference_dir, *, borders=(0, 4)):
    """Long data frame of PSNR (dB) and SSIM of each pair in every combination of colours, border and rounding.

    Columns: image, measure, colours, border (pixels left out on each side), rounding (of the measured values), value.
    RGB of 8-bit files is the same with and without rounding and is listed once. Pairs are those of `evaluate_folder`.
    """
    rows = []
    for name, paths in paired_files(restored_dir, reference_dir).items():
        pair = [pixels[None] for pixels in open_pair(name, paths)]
        for colours, function in COLOURS.items():
            for border in borders:
                planes = [_inside(function(pixels), border) for pixels in pair]
                for rounding in ("none",) if colours == "RGB" else ("none", "to 8 bits"):
                    x, y = ((p * 255).round() / 255 for p in planes) if rounding != "none" else planes
                    setting = (colours, border, rounding)
                    rows.append((name, "PSNR", *setting, float(measures.psnr(x, y))))
                    rows.append((name, "SSIM", *setting, _ssim(x, y)))
    return pd.DataFrame(rows, columns=["image", "measure", "colours", "border", "rounding", "value"])


def convention_table(scores):
    """Means of `convention_scores` with the difference from the field's convention (`PUBLISHED`), largest first.

    Columns: measure, colours, border, rounding, mean, difference, n.
    """
    settings = ["measure", "colours", "border", "rounding"]
    table = scores.groupby(settings, sort=False)["value"].agg(mean="mean", n="count").reset_index()
    means = table.set_index(settings)["mean"]
    field = {measure: means[(measure, *setting)] for measure, setting in PUBLISHED.items()}
    table.insert(5, "difference", table["mean"] - table["measure"].map(field))
    return table.sort_values(["measure", "difference"], ascending=[True, False], ignore_index=True)


def _ssim(x, y):
    try:
        return float(measures.ssim(x * 255, y * 255))
    except measures.Undefined:  # too small, as `evaluate_folder` says
        return math.nan


def _inside(planes, border):
    return F.pad(planes, [-border] * 4)
