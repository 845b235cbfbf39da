"""What Pillow reads otherwise than the file says, set right before the pixels are loaded."""

from PIL import ImagePalette


COLOURS, SAMPLES = 320, 339  # TIFF tags: the colour map, the kind of samples
SIGNED = 2  # a value of SAMPLES
LEVELS = {"L;2": 3, "L;4": 15}  # of grey PNG files with less than 8 bits, whose samples Pillow scales


def corrected(image):
    """The opened PIL `image`, corrected in place, or in another one without an alpha that is none.

    Raises `ValueError` for signed samples of 8 bits, read as unsigned.
    """
    tags, tiles = getattr(image, "tag_v2", {}), getattr(image, "tile", ())  # none of an image that was loaded before
    if image.mode in ("L", "RGB") and SIGNED in tags.get(SAMPLES, ()):
        raise ValueError("signed samples of 8 bits have no known range; save it with unsigned ones")
    if image.format == "PNG" and tiles and tiles[0].args in LEVELS and "transparency" in image.info:
        image.info["transparency"] *= 255 // LEVELS[tiles[0].args]
    if tiles and image.mode == "P" and max(tags.get(COLOURS, [256])) < 256:  # a colour map of 8 bits instead of 16
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[COLOURS]))
    if image.format == "BMP" and image.mode == "RGBA" and image.getextrema()[3] == (0, 0):  # Windows leaves it empty
        return image.convert("RGB")
    return image
