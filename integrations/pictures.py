"""Pictures from files, as models take them."""

from pathlib import Path

import numpy
from PIL import Image


def open_rgb(path: Path) -> Image.Image:
    """The picture of a file, in RGB; of 16 bits a channel the upper ones.

    Raises:
        ValueError: the file is no picture, cut off, or so large that it may be an attack.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I;16"):
                # Converted as they are, all values above 255 would be white.
                return Image.fromarray((numpy.asarray(picture) >> 8).astype("uint8")).convert("RGB")
            return picture.convert("RGB")
    # Of a broken PNG it is a SyntaxError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"expected a picture in {path}: {error}") from error
