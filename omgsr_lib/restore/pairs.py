"""Evaluation pairs restored by a model, as they would be read back from files."""

import torch


@torch.inference_mode()
def restored_pairs(model, pairs, *, timestep=None, seed=None, batch_size=4):
    """The model's images of `EvaluationPair`s, a list of `(3, H, W)` in `[-1, 1]` rounded to 8 bits like a file.

    `timestep`: None for the model's, an int, or `(n,)` with one for each pair.
    `seed`: None for the mean of the encoder's posterior, else that of its samples.
    """
    weights = next(model.parameters())  # the pixels take their device and precision
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    parts = torch.stack([pair.lq for pair in pairs]).split(batch_size)
    each = torch.is_tensor(timestep) and timestep.ndim
    timesteps = timestep.split(batch_size) if each else [timestep] * len(parts)
    images = [
        model(part.to(weights), t, generator=generator).images.float().cpu()
        for part, t in zip(parts, timesteps, strict=True)
    ]
    images = torch.cat(images)
    return list(((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1)
