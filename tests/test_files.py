import errno
import os
from types import SimpleNamespace

import pytest

from cotbal.files import (
    check_writable,
    slug,
    write_bytes_atomically,
    write_text_atomically,
    writing_atomically,
)


@pytest.mark.parametrize("name", [".", "..", "../x", ".hidden"])
def test_a_name_that_would_be_another_folder_is_refused(name):
    with pytest.raises(ValueError, match=r"task '\..*': expected a name that does not begin with '.'"):
        slug(name)
    assert slug(f"x{name}") == f"x{name}".replace("/", "_")


def test_text_is_written_as_utf8_without_touching_line_ends(tmp_path):
    path = write_text_atomically(tmp_path / "new" / "folder" / "file.txt", "é\r\n")
    assert path.read_bytes() == "é\r\n".encode()


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        write_text_atomically(tmp_path, "text")
    assert caught.value.filename == str(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = write_bytes_atomically(tmp_path / "file.bin", b"old")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_names_the_file_and_not_the_temporary_one(tmp_path, monkeypatch):
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with pytest.raises(OSError, match=r"file\.bin") as error, writing_atomically(tmp_path / "file.bin"):
            raise OSError(number, os.strerror(number))
        assert error.value.filename == str(tmp_path / "file.bin")
    temporary = tmp_path / ".file.bin.1f.tmp"
    temporary.mkdir()
    monkeypatch.setattr("cotbal.files.uuid.uuid4", lambda: SimpleNamespace(hex="1f"))
    # Nor can it be removed, as none on a disk that is read-only.
    with pytest.raises(IsADirectoryError) as error:
        write_text_atomically(tmp_path / "file.bin", "its temporary file cannot be opened")
    assert error.value.filename == str(tmp_path / "file.bin")
    # Of another file, or of a read, nothing is said.
    temporary.rmdir()
    for other, named in (
        (OSError(errno.ENOENT, "gone", "other"), "other"),
        (OSError(errno.EIO, "torn"), None),
    ):
        with pytest.raises(OSError, match=r"gone|torn") as error, writing_atomically(tmp_path / "file.bin"):
            raise other
        assert error.value.filename == named


def test_a_folder_that_takes_no_file_is_told_by_the_file(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"{dir}/tmp1f")

    monkeypatch.setattr("cotbal.files.tempfile.TemporaryFile", refuse)
    with pytest.raises(PermissionError) as error:
        check_writable(tmp_path / "page.html")
    assert error.value.filename == str(tmp_path / "page.html")


def test_a_folder_in_the_place_of_the_file_is_told_by_its_name(tmp_path):
    with pytest.raises(IsADirectoryError) as error:
        write_text_atomically(tmp_path, "new")
    assert error.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())
