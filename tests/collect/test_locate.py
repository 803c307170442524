import pytest

from cotbal.collect.locate import find_files


def test_a_link_to_a_file_is_the_file(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.csv").write_text("")
    (tmp_path / "a.csv").symlink_to("run/a.csv")
    assert len(find_files(tmp_path, "**/*.csv")) == 1


def test_parts_come_in_the_order_of_their_numbers(tmp_path):
    for part in (10, 9, 0):
        (tmp_path / f"11_{part}.jsonl").write_text("")
    assert [file.name for file in find_files(tmp_path, "11_*.jsonl", parts=3)] == [
        "11_0.jsonl",
        "11_9.jsonl",
        "11_10.jsonl",
    ]


def test_a_folder_of_odd_name_and_an_absolute_path_are_taken_as_they_are(tmp_path):
    folder = tmp_path / "run [1]*"
    folder.mkdir()
    (folder / "a.csv").write_text("")
    assert find_files(folder, "*.csv") == find_files(tmp_path, str(folder / "a.csv").replace("[", "[[]"))


def test_the_wrong_number_of_files_is_never_chosen_from(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("")
    with pytest.raises(ValueError, match=r"expected 1 file, got 2: .*a.csv, .*b.csv"):
        find_files(tmp_path, "*.csv")
    with pytest.raises(ValueError, match="expected 3 files, got 2"):
        find_files(tmp_path, "*.csv", parts=3)
    with pytest.raises(FileNotFoundError, match="No such file"):
        find_files(tmp_path, "c.csv")
    with pytest.raises(FileNotFoundError, match="No such folder"):
        find_files(tmp_path / "none", "*.csv")


def test_folders_are_no_files_and_of_many_files_five_are_named(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name in "abcde":
        (tmp_path / f"{name}.csv").write_text("")
    assert len(find_files(tmp_path, "*.csv", parts=None)) == 5
    with pytest.raises(ValueError, match=r"got 5: [^;]*e\.csv; name a narrower"):
        find_files(tmp_path, "*.csv")
    (tmp_path / "f.csv").write_text("")
    with pytest.raises(ValueError, match=r"got 6: [^;]*e\.csv, \.\.\.; name a narrower"):
        find_files(tmp_path, "*.csv")
