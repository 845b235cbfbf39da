"""The two curves of the explorer, as SVG: how noisy the noisy latent is, and how far it is from the LQ latent."""

import numpy as np

from .drawing import INK


COLOURS = {"s": "#0072B2", "f": "#D55E00", "z": "#009E73", "k": "#CC79A7"}  # S and F as in the figures
HEADINGS = {
    "snr": "How noisy zₜ is",
    "gap": "How far zₜ is from the LQ latent",
}
AXES = {"snr": "SNR (dB)", "gap": "sliced Wasserstein"}
SNR_RANGE = (-30, 40)  # dB, beyond which the curve is cut
_WIDTH, _HEIGHT = 382, 150
_LEFT, _WIDE, _TOP, _BOTTOM = 50, 316, 24, _HEIGHT - 36


def plots_of(cache):
    """The names of the curves that a cache has: without a reference nothing is known of the gap."""
    return list(HEADINGS)[: 1 if cache.reference == "lq" else None]


def plot_svg(cache, name, variants, timestep):
    """SVG text of the curve "snr" or "gap" of `variants` over the timestep, with a marker at `timestep`.

    For a script that moves the marker and reads values: each curve is a `polyline.curve`, its dot the `circle.marker`
    with the same `data-curve`; `line.marker` stands at x = `data-left` + t / `data-last` * `data-wide`.
    """
    frame = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    text = f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="11" fill="{INK}"'
    return "\n".join(
        [
            f'<svg {frame} {text} role="img" aria-label="{HEADINGS[name]}">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
            *_plot(cache, name, variants, timestep),
            "</svg>",
        ]
    )


def _plot(cache, name, variants, timestep):
    """Frame and ticks, then the curves, then the marker above them."""
    last = cache.about["last"]
    if name == "snr":
        (low, high), ticks = SNR_RANGE, (-20, 0, 20, 40)
    else:
        low, high = 0, 1.05 * max(cache.curve(variant, name)[1].max() for variant in variants)
        ticks = _round_values(high)

    def x(t):
        return _LEFT + np.asarray(t) / last * _WIDE

    def y(value):
        return _BOTTOM - (np.clip(value, low, high) - low) / (high - low) * (_BOTTOM - _TOP)

    yield f'<text x="{_LEFT}" y="13" font-weight="bold">{HEADINGS[name]}</text>'
    middle = f"translate(11 {(_TOP + _BOTTOM) / 2}) rotate(-90)"
    yield f'<text transform="{middle}" text-anchor="middle">{AXES[name]}</text>'
    for value in ticks:
        yield f'<path d="M{_LEFT} {y(value):.1f}h{_WIDE}" stroke="#E6E6E6"/>'
        yield f'<text x="{_LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
    yield f'<path d="M{_LEFT} {_BOTTOM}h{_WIDE}" stroke="#4D4D4D"/>'
    for t in [*range(0, last, 200), last]:
        yield f'<text x="{x(t):.1f}" y="{_BOTTOM + 19}" text-anchor="middle">{t}</text>'
    yield f'<text x="{_LEFT + _WIDE / 2}" y="{_HEIGHT - 4}" text-anchor="middle">timestep t</text>'

    dots = []
    for place, variant in enumerate(variants):
        colour, about = COLOURS[variant], cache.about["variants"][variant]
        if name == "snr":
            if about["snr"] is not None:
                level = y(about["snr"])
                yield f'<path d="M{_LEFT} {level:.1f}h{_WIDE}" stroke="{colour}" stroke-dasharray="4 3"/>'
                if place == 0:
                    yield f'<text x="{_LEFT + 4}" y="{level + 12:.1f}">LQ latent</text>'
            yield (
                f'<text x="{_LEFT + _WIDE}" y="{_TOP + 8 + 14 * place}" text-anchor="end" fill="{colour}">'
                f"OMGSR-{variant.upper()}, ▲ t* = {about['timestep']}</text>"
            )
        timesteps, values = cache.curve(variant, name)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x(timesteps), y(values), strict=True))
        curve = f'data-curve="{name}-{variant}"'
        yield f'<polyline class="curve" {curve} points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        yield f'<path d="M{x(about["timestep"]) - 4:.1f} {_BOTTOM + 8}l4 -7l4 7z" fill="{colour}"/>'
        level = np.interp(timestep, timesteps, y(values))
        dots.append(
            f'<circle class="marker" {curve} cx="{x(timestep):.1f}" cy="{level:.1f}" r="4.5" fill="{colour}" '
            'stroke="white" stroke-width="1.5"/>'
        )
    yield (
        f'<line class="marker" data-left="{_LEFT}" data-wide="{_WIDE}" data-last="{last}" x1="{x(timestep):.1f}" '
        f'x2="{x(timestep):.1f}" y1="{_TOP}" y2="{_BOTTOM}" stroke="{INK}" stroke-width="1.2"/>'
    )
    yield from dots


def _round_values(highest):
    """0 and two to four more round values up to `highest`."""
    power = 10.0 ** np.floor(np.log10(highest))
    step = next(step for step in (0.2 * power, 0.25 * power, 0.5 * power, power, 2 * power) if highest / step < 5)
    return [index * step for index in range(int(highest / step) + 1)]
