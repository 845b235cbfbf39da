"""The contract of every column of every table: what is measured, on which colours, by whom.

The same images score 1.32 dB apart on two definitions of Y and 1.6 to 2.1 dB apart on Y and RGB, and MANIQA has two
incompatible families of weights, so a number without its convention is not comparable. This file holds no tensors.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class MetricSpec:
    """One column: `convention` spells it out, arrows in tables and figures follow from `lower_better`."""

    name: str  # key in `SPECS` and in the column `metric` of data frames
    label: str  # heading in tables and figures
    lower_better: bool
    full_reference: bool  # needs the high-quality image
    colour_space: str
    crop_border: int  # pixels left out on each side before measuring
    rounding: str  # of the values that are measured, after the change of colour space
    backend: str  # whose implementation: "omgsr", "lpips", or "pyiqa:<its metric name>"
    range: str  # data range of the input the measure is defined on
    digits: int  # decimals in tables
    note: str

    @property
    def convention(self):
        border = f"border {self.crop_border}, rounding {self.rounding}"
        return f"{self.colour_space}, {border}, data range {self.range}; {self.note}"

    @property
    def version(self):
        """Version of the package behind `backend`, such as "pyiqa 0.1.16"; without a number if it is not installed."""
        package = self.backend.split(":")[0]
        try:
            return f"{package} {version('omgsr-reproduction' if package == 'omgsr' else package)}"
        except PackageNotFoundError:
            return package


_Y = "Y of YCbCr (BT.601, 16-235)"
_LUMA = "luma of YIQ (full range)"
_8 = "to 8 bits"

_COLUMNS = (
    #          name            label          lower  ref   colours brd rounding backend             range   digits note
    MetricSpec("psnr_y", "PSNR-Y (dB)", False, True, _Y, 0, "none", "omgsr", "0-1", 2, "1e-8 added to MSE"),
    MetricSpec("ssim_y", "SSIM-Y", False, True, _Y, 0, _8, "omgsr", "0-255", 4, "Gaussian 11x11, sigma 1.5"),
    MetricSpec("psnr_rgb", "PSNR-RGB (dB)", False, True, "RGB", 0, "none", "omgsr", "0-1", 2, "1e-8 added to MSE"),
    MetricSpec("gmsd", "GMSD", True, True, _LUMA, 0, "none", "omgsr", "0-255", 4, "2x2 averaging, T 170"),
    MetricSpec("lpips_squeeze", "LPIPS-Squeeze", True, True, "RGB", 0, "none", "lpips", "-1-1", 4,
               "SqueezeNet v0.1, backbone in half precision; not comparable with LPIPS (AlexNet)"),
    MetricSpec("niqe", "NIQE", True, False, _LUMA, 0, _8, "omgsr", "0-255", 2, "blocks of 96"),
    MetricSpec("checkerboard", "Checkerboard (dB)", True, False, _LUMA, 0, "none", "omgsr", "0-1", 2,
               "period 8 pixels, Hann window"),
    MetricSpec("lpips", "LPIPS", True, True, "RGB", 0, "none", "pyiqa:lpips", "0-1", 4, "AlexNet v0.1"),
    MetricSpec("dists", "DISTS", True, True, "RGB", 0, "none", "pyiqa:dists", "0-1", 4, "VGG16"),
    MetricSpec("ms_ssim", "MS-SSIM", False, True, _LUMA, 0, _8, "pyiqa:ms_ssim", "0-255", 4, "five scales, products"),
    MetricSpec("fsim", "FSIM", False, True, "YIQ", 0, "none", "pyiqa:fsim", "0-255", 4, "with chrominance (FSIMc)"),
    MetricSpec("vif", "VIF", False, True, _LUMA, 0, _8, "pyiqa:vif", "0-255", 4, "steerable pyramid"),
    MetricSpec("musiq", "MUSIQ", False, False, "RGB", 0, "none", "pyiqa:musiq", "0-1", 2, "KonIQ weights"),
    MetricSpec("maniqa", "MANIQA", False, False, "RGB", 0, "none", "pyiqa:maniqa-pipal", "0-1", 4,
               "PIPAL weights, not KonIQ"),
    MetricSpec("clipiqa", "CLIPIQA", False, False, "RGB", 0, "none", "pyiqa:clipiqa", "0-1", 4,
               "RN50, not clipiqa+"),
    MetricSpec("fid", "FID", True, True, "RGB", 0, _8, "pyiqa:fid", "0-255", 2,
               "clean mode, whole images, one per set"),
)  # fmt: skip

SPECS = {spec.name: spec for spec in _COLUMNS}


def metric_spec(name):
    """The `MetricSpec` called `name`; `ValueError` with the known names if there is none."""
    if name not in SPECS:
        raise ValueError(f"A metric must be one of {', '.join(SPECS)}; got {name!r}.")
    return SPECS[name]
