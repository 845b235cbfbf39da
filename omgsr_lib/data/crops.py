"""Random crops of photographs that depend on `(seed, step)` alone, so that a resumed run sees the same data."""

import torch
from PIL import Image

from .photos import open_photo, to_pixels


class CropSampler:
    """Square random crops with flips from a pyramid of each photograph.

    Args:
        paths: photographs.
        size: side of a crop in pixels.
        seed: with the step number the only source of randomness.
        short_sides: each photograph is resized with Lanczos so that its short side has these lengths (never
            enlarged beyond a crop): small ones hold whole objects in a crop and are sharp at pixel level.
    """

    def __init__(self, paths, size, *, seed=0, short_sides=(256, 384, 512)):
        self.size, self.seed = size, seed
        self.levels = []
        for path in paths:
            photo = open_photo(path)
            for side in short_sides:
                scale = max(min(1.0, side / min(photo.size)), size / min(photo.size))
                shape = [max(size, round(length * scale)) for length in photo.size]
                pixels = to_pixels(photo.resize(shape, Image.LANCZOS))
                self.levels.append(((pixels + 1) * 127.5).round().byte())

    def batch(self, step, batch_size):
        """Crops `(batch_size, 3, size, size)` in `[-1, 1]`, the same for the same `(seed, step)`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        crops = []
        for _ in range(batch_size):
            level = self.levels[_draw(len(self.levels), generator)]
            top = _draw(level.shape[1] - self.size + 1, generator)
            left = _draw(level.shape[2] - self.size + 1, generator)
            crop = level[:, top : top + self.size, left : left + self.size]
            crops.append(crop.flip(-1) if _draw(2, generator) else crop)
        return torch.stack(crops).float() / 127.5 - 1


def _draw(stop, generator):
    return int(torch.randint(stop, (), generator=generator))
