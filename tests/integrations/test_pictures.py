"""Pictures from files: in RGB whatever they are, an error where they are none."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from cotbal.integrations.pictures import open_rgb


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK", "RGB"])
def test_any_mode(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    Image.new("RGB", (4, 3), (255, 255, 255)).convert(mode).save(path)
    assert (open_rgb(path).mode, open_rgb(path).size) == ("RGB", (4, 3))


def test_of_sixteen_bits_are_the_upper_ones(tmp_path: Path) -> None:
    """Where Pillow converts by itself, all above 255 is white."""
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("x.png", "x.tiff", "x.pgm"):
        Image.fromarray(values).save(tmp_path / name)
        assert (np.asarray(open_rgb(tmp_path / name)) == (values >> 8)[..., None]).all()


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_of_thirty_two_bits_nothing_tells_the_scale(kind: type, tmp_path: Path) -> None:
    """As of heights or of satellites: fractions would all be black, numbers above 255 white."""
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16).astype(kind)).save(
        tmp_path / "x.tiff"
    )
    with pytest.raises(
        ValueError, match=r"expected a picture in .*x\.tiff: 32 bits a channel, .* save it with 8"
    ):
        open_rgb(tmp_path / "x.tiff")


def test_what_exif_turns_is_taken_as_it_is_stored(tmp_path: Path) -> None:
    """As LLaVA takes it; transformers turns what it loads itself, as `cotbal data check` says."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "x.jpg", exif=exif)
    assert open_rgb(tmp_path / "x.jpg").size == (40, 30)
    assert load_image(str(tmp_path / "x.jpg")).size == (30, 40)


def test_what_is_no_picture(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    chunk = whole.index(b"IDAT")
    broken = {
        "none.png": b"",
        "text.png": b"none",
        "cut.png": whole[: len(whole) // 2],
        "chunk.png": whole[: chunk + 1] + b"\x01" + whole[chunk + 2 :],
        "huge.png": _header(20_000, 10_000),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"expected a picture in .*{name}: "):
            open_rgb(tmp_path / name)
    with pytest.raises(ValueError, match=r"no\.png: .*No such file"):
        open_rgb(tmp_path / "no.png")


def _header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
