"""Colour fixes after restoring: take the colours of the up-scaled LQ picture, keep the restored detail.

Both work on pixels `(B, 3, H, W)` in `[-1, 1]` and clamp nothing; they equal the field's versions on `[0, 1]`.
"""

from torch.nn import functional as F


def fix_colour(restored, reference, method="adain"):
    """`restored` with the colours of `reference` (same shape); `method` is "adain", "wavelet" or None (unchanged)."""
    if restored.shape != reference.shape:
        raise ValueError(
            f"A colour fix needs a reference of the same shape: got {tuple(restored.shape)} and "
            f"{tuple(reference.shape)}. Up-scale the LQ picture first."
        )
    if method is None:
        return restored
    methods = {"adain": adain, "wavelet": wavelet}
    if method not in methods:
        raise ValueError(f'colour_fix must be "adain", "wavelet" or None, got {method!r}.')
    return methods[method](restored, reference)


def adain(restored, reference):
    """Give each channel the mean and standard deviation of the reference: `(x - m_x) / s_x * s_r + m_r`.

    `s = sqrt(variance + 1e-5)` on pixels in [0, 1] (unbiased variance), which is 4e-5 on [-1, 1]. A constant colour
    shift is removed exactly.
    """

    def statistics(pixels):
        return pixels.mean((2, 3), keepdim=True), (pixels.var((2, 3), keepdim=True) + 4e-5).sqrt()

    (mean, scale), (mean_reference, scale_reference) = statistics(restored), statistics(reference)
    return (restored - mean) * (scale_reference / scale) + mean_reference


def wavelet(restored, reference):
    """High frequencies of `restored` plus low frequencies of `reference`.

    The field splits off five levels of detail and adds the blurred rest of the reference. All of that is linear, so it
    is `restored + L(reference - restored)` with one low-pass L, an order of magnitude faster.
    """
    return restored + low_pass(reference - restored)


def low_pass(pixels):
    """Five blurs with [1 2 1] / 4 along each axis, dilated by 1, 2, 4, 8, 16, borders replicated."""
    for radius in (1, 2, 4, 8, 16):
        rows = F.pad(pixels, (0, 0, radius, radius), mode="replicate")
        pixels = pixels / 2 + (rows[:, :, : -2 * radius] + rows[:, :, 2 * radius :]) / 4
        columns = F.pad(pixels, (radius, radius, 0, 0), mode="replicate")
        pixels = pixels / 2 + (columns[..., : -2 * radius] + columns[..., 2 * radius :]) / 4
    return pixels
