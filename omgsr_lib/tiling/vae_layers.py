"""An autoencoder's encoder and decoder as a plain sequence of layers that know how far they look.

Tiling needs no more than this: how many pixels around its output a layer reads, by what it scales, and which
normalisation or attention depends on the whole image. The layers call the modules themselves, adapters included.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn import functional as F


# Rows of a strip in which a residual block of `AutoencoderDC` is normalised: it stays in the processor's cache, and no
# further tensor as large as the block's output is made. Multiples of 64 positions are summed as in one piece.
ROWS = 64


@dataclass(frozen=True)
class Layer:
    """`run` maps `(B, C, H, W)` to `(B, C', H s, W s)`.

    Attributes:
        run: the function; it may overwrite its input where there is a `norm`.
        reach: input pixels to each side that an output pixel depends on.
        scale: s, one of 1, 2 and 0.5.
        norm: group normalisation of the input, before `run`.
        keeps: the layer's input is the start of a residual branch.
        shortcut: ends the branch: this function of its start is added to the output.
        attention: instead of all this, a diffusers `Attention` over all positions.
    """

    run: Callable | None = None
    reach: int = 0
    scale: float = 1
    norm: nn.GroupNorm | None = None
    keeps: bool = False
    shortcut: Callable | None = None
    attention: nn.Module | None = None

    def input_span(self, start, stop):
        """Rows (or columns) of the input that those of the output depend on: ranges, which may leave the image."""
        if self.scale == 2:
            start, stop = start // 2, -(-stop // 2)
        elif self.scale == 0.5:  # an even start, as the strides expect
            return 2 * (start - self.reach), 2 * (stop + self.reach)
        return start - self.reach, stop + self.reach


def encoder_layers(vae):
    """Layers from pixels in `[-1, 1]` to what `vae.encode` makes its posterior or latents of.

    `vae`: `AutoencoderKL[Flux2]` (Stable Diffusion, FLUX), `AutoencoderDC` without attention or `AutoencoderTiny`.
    Raises `ValueError` for others.
    """
    encoder = vae.encoder
    match type(vae).__name__:
        case "AutoencoderKL" | "AutoencoderKLFlux2":
            layers = [Layer(encoder.conv_in, reach=1)]
            for block in encoder.down_blocks:
                layers += _residuals(block.resnets)
                layers += [Layer(down, reach=1, scale=0.5) for down in block.downsamplers or ()]
            layers += [*_middle(encoder.mid_block), _output(encoder)]
            return layers if vae.quant_conv is None else [*layers, Layer(vae.quant_conv)]
        case "AutoencoderDC":
            layers = [_dc_layer(encoder.conv_in)]
            layers += [_dc_layer(module) for block in encoder.down_blocks for module in block]
            return [*layers, Layer(lambda x: _dc_encoder_output(encoder, x), reach=1)]
        case "AutoencoderTiny":
            return [Layer(lambda x: x.add(1).div(2)), *map(_tiny_layer, encoder.layers)]
    raise _unsupported(type(vae).__name__)


def decoder_layers(vae):
    """Layers from unscaled latents to pixels; autoencoders as in `encoder_layers`."""
    decoder = vae.decoder
    match type(vae).__name__:
        case "AutoencoderKL" | "AutoencoderKLFlux2":
            layers = [] if vae.post_quant_conv is None else [Layer(vae.post_quant_conv)]
            layers += [Layer(decoder.conv_in, reach=1), *_middle(decoder.mid_block)]
            for block in decoder.up_blocks:
                layers += _residuals(block.resnets)
                layers += [Layer(up, reach=1, scale=2) for up in block.upsamplers or ()]
            return [*layers, _output(decoder)]
        case "AutoencoderDC":
            layers = [Layer(lambda x: _dc_decoder_input(decoder, x), reach=1)]
            layers += [_dc_layer(module) for block in reversed(decoder.up_blocks) for module in block]
            layers += [Layer(lambda x: decoder.conv_act(_normed(decoder.norm_out, x)))]
            return [*layers, _dc_layer(decoder.conv_out)]
        case "AutoencoderTiny":
            first, last = Layer(lambda x: F.tanh(x / 3) * 3), Layer(lambda x: x.mul(2).sub(1))
            return [first, *map(_tiny_layer, decoder.layers), last]
    raise _unsupported(type(vae).__name__)


def _residuals(blocks):
    layers = []
    for block in blocks:
        shortcut = block.conv_shortcut or (lambda x: x)
        layers.append(Layer(_activated(block.nonlinearity, block.conv1), reach=1, norm=block.norm1, keeps=True))
        layers.append(Layer(_activated(block.nonlinearity, block.conv2), reach=1, norm=block.norm2, shortcut=shortcut))
    return layers


def _middle(block):
    layers = _residuals(block.resnets[:1])
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            layers.append(Layer(attention=attention, norm=attention.group_norm))
        layers += _residuals([resnet])
    return layers


def _output(part):
    return Layer(_activated(part.conv_act, part.conv_out), reach=1, norm=part.conv_norm_out)


def _activated(activation, convolution):
    if isinstance(activation, nn.SiLU):
        return lambda x: convolution(F.silu(x, inplace=True))
    return lambda x: convolution(activation(x))


def _dc_layer(module):
    match type(module).__name__:
        case "Conv2d":
            return Layer(module, reach=1)
        case "ResBlock":
            return Layer(lambda x: _dc_residual(module, x), reach=2)
        case "DCDownBlock2d":
            return Layer(module, reach=1, scale=0.5)
        case "DCUpBlock2d" | "FoldedEnlargement":
            return Layer(module, reach=1, scale=2)
    raise _unsupported(f"AutoencoderDC with {type(module).__name__}")


def _dc_residual(block, x):
    y = _activated(block.nonlinearity, block.conv2)(block.conv1(x))
    if block.norm_type != "rms_norm":
        return block.norm(y).add_(x)
    for top in range(0, y.shape[2], ROWS):
        rows = slice(top, top + ROWS)
        y[:, :, rows] = _normed(block.norm, y[:, :, rows]) + x[:, :, rows]
    return y


def _normed(norm, x):
    return norm(x.movedim(1, -1)).movedim(-1, 1)


def _dc_encoder_output(encoder, x):
    output = encoder.conv_out(x)
    if encoder.out_shortcut:
        output = output + x.unflatten(1, (-1, encoder.out_shortcut_average_group_size)).mean(2)
    return output


def _dc_decoder_input(decoder, x):
    output = decoder.conv_in(x)
    if decoder.in_shortcut:
        output = output + x.repeat_interleave(decoder.in_shortcut_repeats, dim=1)
    return output


def _tiny_layer(module):
    if isinstance(module, nn.Conv2d):
        return Layer(module, reach=1, scale=1 / module.stride[0])
    if isinstance(module, nn.Upsample):
        return Layer(module, scale=module.scale_factor)
    return Layer(module, reach=3 if type(module).__name__ == "AutoencoderTinyBlock" else 0)


def _unsupported(name):
    return ValueError(
        "A tiled autoencoder must be AutoencoderKL, AutoencoderDC without attention or AutoencoderTiny: got "
        f"{name}. Encode and decode in one piece instead."
    )
