import os
import struct
import zlib

import pytest
from PIL import Image

from cotbal.data.check.pictures import MOST_PIXELS, look
from tests.data.check.records import check, findings, question, record


def png(path, size=(40, 30), colour=0):
    path.parent.mkdir(exist_ok=True)
    Image.effect_noise(size, 50 + colour).save(path)
    return path


def bomb(path, width, height):
    """A PNG of a few hundred bytes that says it has thousands of millions of pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(50_000))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff", "ppm"])
def test_whole_picture_and_what_of_it_is_cut_off(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.effect_noise((201, 150), 60).convert("RGB").save(path)
    found = look(path)
    assert (found.kind, found.width, found.height, len(found.digest)) == (None, 201, 150, 16)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert look(path).kind == "broken-picture"


def test_what_is_no_picture(tmp_path):
    assert look(tmp_path / "none.jpg").kind == "missing-picture"
    assert look(tmp_path).kind == "missing-picture"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert look(tmp_path / "pipe.jpg").kind == "missing-picture"
    (tmp_path / "empty.jpg").touch()
    assert look(tmp_path / "empty.jpg")[:3] == ("broken-picture", "a picture", "a file of 0 bytes")
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    assert look(tmp_path / "page.jpg").got == "no picture of these"
    # Pillow would start another program for it.
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert look(tmp_path / "a.eps").got == "no picture of these"


@pytest.mark.parametrize("mode", ["I", "F"])
def test_of_thirty_two_bits_a_channel(tmp_path, mode):
    """Training would see it all white or all black; of 16 it is taken."""
    Image.new("L", (40, 30)).convert(mode).save(tmp_path / "a.tiff")
    assert look(tmp_path / "a.tiff")[:3] == ("broken-picture", "8 or 16 bits a channel", "32")
    for name in ("a.png", "b.tiff"):
        Image.new("I;16", (40, 30)).save(tmp_path / name)
        assert look(tmp_path / name).kind is None
    # Pillow 10.0 writes none.
    (tmp_path / "a.pgm").write_bytes(b"P5 40 30 65535\n" + bytes(40 * 30 * 2))
    assert look(tmp_path / "a.pgm").kind is None


# Pillow itself refuses twice its limit only.
@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (9_500, 9_500)])
def test_bomb_is_told_by_its_head_and_not_decoded(tmp_path, width, height):
    path = bomb(tmp_path / "a.png", width, height)
    assert path.stat().st_size < 500
    found = look(path)
    assert found.kind == "broken-picture"
    assert found.expected == f"at most {MOST_PIXELS:,} pixels"


def test_pictures_of_records(tmp_path):
    images = tmp_path / "images"
    png(images / "1.png")
    png(images / "2.png", colour=1)
    (images / "copy.png").write_bytes((images / "1.png").read_bytes())
    (tmp_path / "outside.png").write_bytes((images / "1.png").read_bytes())
    train = [
        record("a?", "b", image="1.png"),
        record("c?", "d", image="none.png"),
        record("a?", "b", image="../outside.png"),
        record("a?", "x", "a?", "b", image="copy.png"),
        record("e?", "f", image="none.png"),
    ]
    held_out = [question(1, "z?", "copy.png"), question(2, "z?", "2.png")]
    found = check(tmp_path, {"train": train, "validation": held_out}, images=images)
    assert findings(found) == [
        ("missing-picture", "train", 2, "image"),
        ("path", "train", 3, "image"),
        ("missing-picture", "train", 5, "image"),
        ("repeated-question", "train", 4, "conversations[2].value"),
        ("leaked-picture", "validation", 1, "image"),
        ("copied-picture", "train", 4, "image"),
    ]
    assert found.pictures == 4


@pytest.mark.parametrize(
    ("size", "box", "padded"),
    [
        ((200, 100), "[0.00, 0.25, 1.00, 0.75]", False),
        ((200, 100), "[0.10, 0.20, 0.30, 0.40]", True),
        ((200, 100), "[0.10, 0.30, 0.30, 0.80]", True),
        ((100, 200), "[0.25, 0.00, 0.75, 1.00]", False),
        ((100, 200), "[0.10, 0.30, 0.30, 0.80]", True),
        ((64, 64), "[0.00, 0.00, 1.00, 1.00]", False),
    ],
)
def test_box_in_the_padding_is_told(tmp_path, size, box, padded):
    png(tmp_path / "1.png", size)
    found = check(tmp_path, {"train": [record("where?", box, image="1.png")]}, images=tmp_path)
    expected = [("box-in-padding", "train", 1, "conversations[1].value")] if padded else []
    assert findings(found) == expected
    asked = question(1, "where?", "1.png", answer=box)
    found = check(tmp_path, {"val": [asked]}, images=tmp_path)
    assert findings(found) == ([("box-in-padding", "val", 1, "answer")] if padded else [])


def turned(path, orientation, **options):
    """A picture that EXIF turns, as of a telephone held upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.effect_noise((40, 30), 50 + orientation).convert("RGB").save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_what_exif_turns_is_stored_as_it_was_taken(tmp_path, suffix, orientation):
    found = look(turned(tmp_path / f"a.{suffix}", orientation))
    assert (found.kind, found.width, found.height, found.orientation) == (None, 40, 30, orientation)


def test_what_pillow_turns_itself_and_what_is_no_orientation(tmp_path):
    assert look(turned(tmp_path / "a.tiff", 6)).orientation == 1
    assert look(turned(tmp_path / "a.jpg", 9)).orientation == 1
    # Such metadata are an error of who reads them, and break no picture.
    Image.effect_noise((40, 30), 50).save(tmp_path / "b.png", exif=b"Exif\0\0MM\0*\0\0")
    found = look(tmp_path / "b.png")
    assert (found.kind, found.orientation) == (None, 1)


def test_turned_pictures_are_counted_by_task_with_one_example(tmp_path):
    """LLaVA and cotbal see them as stored, transformers' own loading as EXIF turns them."""
    for name, orientation in (("1.jpg", 6), ("2.jpg", 1), ("3.jpg", 8), ("4.jpg", 3)):
        turned(tmp_path / name, orientation)
    named = [("A", "2.jpg"), ("A", "1.jpg"), ("B", "2.jpg"), ("A", "3.jpg"), ("C", "4.jpg"), ("A", "1.jpg")]
    train = [record(f"{n}?", "b", image=name, task=task) for n, (task, name) in enumerate(named)]
    found = check(tmp_path, {"train": train}, images=tmp_path)
    assert found.findings.of("warning") == {"turned-picture": 2}
    assert findings(found) == [
        ("turned-picture", "train", 2, "image"),
        ("turned-picture", "train", 5, "image"),
    ]
    first, second = (each.got for each in found.findings.first["turned-picture"])
    assert first == "3 records of task 'A' with one that EXIF turns, such as '1.jpg' (orientation 6)"
    assert second == "1 record of task 'C' with one that EXIF turns, such as '4.jpg' (orientation 3)"
    with_workers = check(tmp_path, {"train": train}, images=tmp_path, workers=2)
    assert list(with_workers.findings.lines()) == list(found.findings.lines())
