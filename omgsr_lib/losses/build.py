"""The loss networks of a recipe: its perceptual distance and its discriminator, by their names in `presets`."""

from functools import cache
from typing import NamedTuple

from torch import nn

from .adversarial import Discriminator
from .backbone_weights import dinov2_model, dinov3_stages
from .backbones import DINOv2Features, DINOv3Features, EncoderFeatures, Pixels
from .dists import EdgeAware, dinov3_dists, vgg16_dists
from .heads import DINOV3_LEAST_SIDE, dinov2_heads, dinov3_heads, pixel_head
from .perceptual import FeatureDistance, lpips_squeeze, lpips_vgg


class LossNetworks(NamedTuple):
    """`perceptual(predicted, target)` gives `(B, 1, 1, 1)`; None where the recipe's weight of the loss is 0."""

    perceptual: nn.Module | None
    discriminator: Discriminator | None


def build_losses(recipe, vae, *, weights=None, pretrained=True, as_released=False):
    """The `LossNetworks` of `recipe`, on the default device; all frozen but the heads of the discriminator.

    Args:
        recipe: `presets.Recipe`: `perceptual_loss`, `discriminator`, `critic_chunk`, `resolution` and the two weights.
        vae: diffusers autoencoder whose encoder gives the features named "autoencoder"; else unused.
        weights: folder of the networks' weights (`backbone_weights`); what it lacks is taken from the hubs.
        pretrained: False gives random weights of the real architectures, for dry runs (`with torch.device("meta")`)
            and benchmarks; DISTS then weighs all channels alike.
        as_released: LPIPS in the range of the authors' module (`lpips_vgg`).

    Distance and discriminator share one copy of a backbone that both use. Heads are drawn from torch's global
    generator, which the caller seeds. Raises `ValueError` for unknown names, `FileNotFoundError` for missing weights.
    """
    sources = dict(weights=weights, pretrained=pretrained)

    @cache
    def encoder():
        return EncoderFeatures(vae.encoder)

    @cache
    def stages():
        return dinov3_stages(**sources)

    def dinov2_discriminator():
        features = DINOv2Features(dinov2_model(**sources))
        return Discriminator(features, dinov2_heads(features.width), chunk=recipe.critic_chunk)

    def dinov3_discriminator():
        features = DINOv3Features(stages())
        resolution = 1024 if (recipe.critic_chunk or recipe.resolution) == 1024 else 512
        heads = dinov3_heads(features.widths(), resolution)
        least_side = DINOV3_LEAST_SIDE[resolution]
        return Discriminator(features, heads, chunk=recipe.critic_chunk, least_side=least_side)

    perceptual = {
        "lpips": lambda: lpips_vgg(as_released=as_released, **sources),
        "lpips-squeeze": lambda: lpips_squeeze(**sources),
        "ea-dists": lambda: EdgeAware(vgg16_dists(**sources)),
        "dinov3-dists": lambda: dinov3_dists(stages()),
        "autoencoder": lambda: FeatureDistance(encoder()),
    }
    discriminators = {
        "dinov2": dinov2_discriminator,
        "dinov3": dinov3_discriminator,
        "autoencoder": lambda: Discriminator(encoder(), encoder().widths(), chunk=recipe.critic_chunk),
        "pixels": lambda: Discriminator(Pixels(), [pixel_head()], chunk=recipe.critic_chunk),
    }
    return LossNetworks(
        _build("perceptual_loss", recipe.perceptual_loss, perceptual) if recipe.perceptual else None,
        _build("discriminator", recipe.discriminator, discriminators) if recipe.adversarial else None,
    )


def _build(field, name, builders):
    if name not in builders:
        raise ValueError(f"A recipe's {field} must be one of {', '.join(builders)}: got {name!r}.")
    return builders[name]()
