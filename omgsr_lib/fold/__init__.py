"""Exact constant folding: a prior at one timestep and one prompt, with all that no image changes computed once.

The folded prior gives the same outputs with fewer parameters and operations. Embedders of time, guidance and prompt
are gone, modulation and the weights of norms are part of the layers beside them, keys and values of the prompt are
tables, and projections of one input are one layer. Weights are folded in float64 and rounded once, adapters included,
whose product `B A` is that of merging. In half precision FLUX's transformers round their time input, folded ones do
not: these are then nearer to float32 than to the unfolded prior in half precision.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ..priors.loading import empty_prior
from ..utils.files import reading


WEIGHTS = "folded.safetensors"
# What is true of a folded prior as of the one it is made from.
FACTS = (
    "family", "latent_multiple", "rim", "clamps_images", "lora_targets", "adapter_folders", "compiles_blocks",
    "quantisable",
)  # fmt: skip


class Prompt(NamedTuple):
    """Hidden states of the fixed prompt: in any order, unless the prior gives its tokens positions.

    Attributes:
        tokens: `(T, width)` float64.
        counts: `(T,)` int64, how many equal tokens each one stands for; None where each is one.
    """

    tokens: torch.Tensor
    counts: torch.Tensor | None


class FoldedPrior(nn.Module):
    """A prior folded at `timestep`, for inference: takes the place of the prior it is made from.

    Made by `fold_prior`. Its layers overwrite their own activations, so that no gradient can be computed.
    """

    def __init__(self, prior, timestep, prompt):
        super().__init__()
        for fact in FACTS:
            setattr(self, fact, getattr(prior, fact))
        self.scheduler, self.schedule = prior.scheduler, prior.schedule
        self.timestep = int(timestep)
        self.config = {name: value for name, value in prior.denoiser.config.items() if name[0] != "_"}
        embeds = {name: list(buffer.shape) for name, buffer in prior.named_buffers(recurse=False)}
        self.embeds = embeds | {"prompt_embeds": [1, *prompt.tokens.shape]}
        self.denoiser = prior.folded(self.timestep, prompt)

    def forward(self, latents, timestep):
        """Model output `(B, C, H, W)` of the prior for latents at `timestep`: the folded one, or `(B,)` times it.

        Raises `ValueError` for another timestep.
        """
        if not (torch.as_tensor(timestep) == self.timestep).all():
            raise ValueError(
                f"A folded prior has one timestep, {self.timestep}: got {timestep}. Fold the model at that timestep."
            )
        return self.denoiser(latents)


@torch.no_grad()
def fold_prior(prior, timestep, *, merge_tokens=True):
    """Fold a prior at `timestep` (an integer) and its prompt.

    Args:
        prior: with or without adapters; it stays as it is, and shares no tensor with the result. Tensors may be on the
            meta device: the folded ones are then shapes as well.
        merge_tokens: take k equal tokens of the prompt as one with `log k` added to its attention scores, which gives
            the same outputs. Tokens with positions, or on the meta device, are all taken as different.

    Returns a `FoldedPrior` in the precision of `prior`. Raises `ValueError` if `timestep` is not in the schedule, the
    prior is folded already, or its network or adapter has options that are not covered.
    """
    if isinstance(prior, FoldedPrior):
        raise ValueError(f"A prior is folded once: this one is folded at {prior.timestep}. Fold the one it came from.")
    prior.schedule.expand(timestep, 1)
    return FoldedPrior(prior, timestep, _folded_prompt(prior, merge_tokens)).eval()


def _folded_prompt(prior, merge_tokens):
    tokens = prior.prompt_embeds[0].double()
    if merge_tokens and not (prior.prompt_positions or tokens.is_meta):
        merged, counts = tokens.unique(dim=0, return_counts=True)
        if len(merged) < len(tokens):
            return Prompt(merged, counts)
    return Prompt(tokens, None)


def save_folded(prior, folder):
    """Write the weights of a `FoldedPrior`, its scheduler, and `omgsr.json` with all else below `folder`."""
    folder = Path(folder)
    about = {"family": prior.family, "timestep": prior.timestep}
    state = {name: value.contiguous() for name, value in prior.denoiser.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"} | {name: str(value) for name, value in about.items()})
    prior.scheduler.save_pretrained(folder / "scheduler")
    merged = any(name.endswith("counts") for name in state)
    about["folded"] = {"embeds": prior.embeds, "merged": merged, "config": prior.config}
    (folder / "omgsr.json").write_text(json.dumps(about, indent=2) + "\n")


@torch.no_grad()
def load_folded(folder, dtype=torch.float32):
    """The `FoldedPrior` that `save_folded` wrote to `folder`, in `dtype`.

    Raises `FileNotFoundError` if its weights are missing, `ValueError` if they are damaged or of another model than
    `omgsr.json` describes.
    """
    folder = Path(folder)
    about = json.loads((folder / "omgsr.json").read_text())
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"A folded model's folder must hold {WEIGHTS}: '{folder}' does not. Copy it again.")
    with reading(folder / WEIGHTS, "Copy the folded model again."):
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            metadata = file.metadata() or {}
        state = load_file(folder / WEIGHTS)
    expected, found = ((about["family"], str(about["timestep"])), (metadata.get("family"), metadata.get("timestep")))
    if expected != found:
        raise ValueError(
            f"Folded weights must be those that omgsr.json describes, {expected[0]} at {expected[1]}: '{folder}' has "
            f"{found[0]} at {found[1]}. Copy the folded model again."
        )
    details = about["folded"]
    prior = empty_prior(folder, about["family"], details["config"], details["embeds"])
    tokens = prior.prompt_embeds[0].double()
    counts = torch.empty(len(tokens), dtype=torch.int64, device="meta") if details["merged"] else None
    folded = FoldedPrior(prior, about["timestep"], Prompt(tokens, counts))
    try:
        folded.denoiser.load_state_dict(state, assign=True)
    except RuntimeError as err:
        raise ValueError(
            f"Folded weights must be those that omgsr.json describes: '{folder}' has other tensors. Copy the folded "
            "model again."
        ) from err
    return folded.to(dtype).eval()
