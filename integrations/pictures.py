"""Pictures from files, as models take them."""

from pathlib import Path

import numpy
from PIL import Image


def open_rgb(path: Path) -> Image.Image:
    """The picture of a file, in RGB; of 16 bits a channel the upper ones.

    Raises:
        ValueError: the file is no picture, cut off, of 32 bits a channel, or so large that it may
            be an attack.
    """
    try:
        with Image.open(path) as picture:
            # Pillow before 10.3 calls a PNG of 16 bits "I" too, and any does so with a PGM.
            if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
                # Converted as they are, all values above 255 would be white.
                return Image.fromarray((numpy.asarray(picture) >> 8).astype("uint8")).convert("RGB")
            if picture.mode in ("I", "F"):
                # As they are, it would be all white, or all black where they are fractions.
                raise ValueError("32 bits a channel, of which nothing tells black and white; save it with 8")
            return picture.convert("RGB")
    # Of a broken PNG it is a SyntaxError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"expected a picture in {path}: {error}") from error
