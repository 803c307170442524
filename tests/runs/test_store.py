import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cotbal.runs.store import OutputInUseError, Record, RunSpec, Store, in_use, locked, run_key

SPEC = RunSpec("a", "module:function", {"seed": 0, "data": {"x": "full", "y": "mini"}}, steps=3)
RECORD = Record("0123456789abcdef", {"score": 0.25, "items": [1.0, 0.5]}, 10.0, 12.5, 2.0)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.folder(RECORD.key).mkdir(parents=True)
    return store


def write(store, record=RECORD):
    (store.folder(record.key) / "model.bin").write_bytes(b"12345")
    store.write(record, function="module:function", settings={"seed": 0})
    return store.folder(record.key) / "result.json"


def test_key_is_16_hex_digits_of_what_determines_the_result():
    key = run_key(SPEC)
    assert len(key) == 16
    assert int(key, 16) >= 0
    reordered = {"data": {"y": "mini", "x": "full"}, "seed": 0}
    assert run_key(dataclasses.replace(SPEC, name="b", steps=9, settings=reordered)) == key


@pytest.mark.parametrize(
    ("change", "needs"),
    [
        ({"function": "module:other"}, []),
        ({"settings": {**SPEC.settings, "seed": 1}}, []),
        ({"settings": {**SPEC.settings, "data": {"x": "full", "y": "full"}}}, []),
        ({}, ["1111111111111111"]),
    ],
)
def test_key_changes_with_everything_that_determines_the_result(change, needs):
    assert run_key(dataclasses.replace(SPEC, **change), needs) != run_key(SPEC)


def test_key_of_settings_that_are_not_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_key(dataclasses.replace(SPEC, settings={"weight": float("nan")}))


def test_record_comes_back(store):
    assert store.record(RECORD.key) is None
    write(store)
    assert store.record(RECORD.key) == RECORD


@pytest.mark.parametrize(
    ("of_it", "now", "good"),
    [
        ({"n": 9.0}, {"n": 9.0}, True),
        # Also one that is earlier than it was: its clock may be another machine's.
        ({"n": 9.0}, {"n": 8.0}, False),
        ({"n": 9.0}, {"n": 9.0, "o": 9.0}, False),
        # Of an older cotbal, whose results say nothing of it; this one finished at 12.5.
        (None, {"n": 12.5}, True),
        (None, {"n": 9.0, "o": 12.6}, False),
    ],
)
def test_result_made_from_other_results_is_not_finished(store, of_it, now, good):
    record = dataclasses.replace(RECORD, made_from=of_it)
    path = write(store, record)
    if of_it is None:
        content = json.loads(path.read_text())
        del content["made_from"]
        path.write_text(json.dumps(content))
    assert store.record(RECORD.key, now) == (record if good else None)


def test_result_cut_off_anywhere_is_not_finished(store):
    path = write(store)
    whole = path.read_bytes()
    for length in range(0, len(whole.rstrip()), 7):
        path.write_bytes(whole[:length])
        assert store.record(RECORD.key) is None


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 300, b"\xff\xfe", b"[]", b"null", b"{}", b'{"schema_version": 1}']
)
def test_damaged_result_is_not_finished(store, content):
    write(store).write_bytes(content)
    assert store.record(RECORD.key) is None


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"key": "another"},
        {"versions": {"torch": "1.0"}},
        {"result": [1]},
        {"made_from": [1]},
    ],
)
def test_result_of_something_else_is_not_finished(store, change):
    path = write(store)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert store.record(RECORD.key) is None


def test_result_whose_model_is_lost_or_cut_off_is_not_finished(store):
    model = write(store).with_name("model.bin")
    model.write_bytes(b"123")
    assert store.record(RECORD.key) is None
    model.unlink()
    assert store.record(RECORD.key) is None


@pytest.mark.parametrize("name", ["result.json", "model.bin"])
def test_disk_that_does_not_give_out_a_result_is_told_and_the_run_not_done_again(store, monkeypatch, name):
    """As a network disk for a moment: taken for unfinished, the run began anew and removed its result."""
    write(store)
    originals = {"open": Path.open, "stat": Path.stat}

    def disturbed(call):
        def called(path, *args, **named):
            if path.name == name:
                raise OSError(errno.EIO, "Input/output error", str(path))
            return originals[call](path, *args, **named)

        return called

    for call in originals:
        monkeypatch.setattr(Path, call, disturbed(call))
    with pytest.raises(OSError, match="Input/output error"):
        store.record(RECORD.key)


@pytest.mark.parametrize("name", [".nfs00000001", ".fuse_hidden0001"])
def test_removed_file_that_somebody_still_reads_is_no_part_of_the_result(store, name):
    """Such as the log of an earlier try that a user follows: gone later, it took the result with it."""
    followed = store.folder(RECORD.key) / name
    followed.write_text("of an earlier try")
    write(store)
    followed.unlink()
    assert store.record(RECORD.key) == RECORD


def test_log_that_grows_after_the_result_does_no_harm(store):
    (store.folder(RECORD.key) / "log.txt").write_text("begun\n")
    with write(store).with_name("log.txt").open("a") as log:
        log.write("a library says good-bye\n")
    assert store.record(RECORD.key) == RECORD


def test_further_files_in_the_folder_do_no_harm(store):
    write(store).with_name("notes.txt").write_text("mine")
    assert store.record(RECORD.key) == RECORD


def test_full_disk_leaves_the_old_result_and_nothing_half(store, monkeypatch):
    path = write(store)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write(store, dataclasses.replace(RECORD, cpu_seconds=3.0))
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.bin", "result.json"]


def test_result_that_is_not_finite_is_not_written(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(store, dataclasses.replace(RECORD, result={"score": float("inf")}))
    assert store.record(RECORD.key) is None


def test_second_process_is_told_who_holds_the_folder(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on a-node-with-a-very-long-name-that-was-here-before\n" * 2)
    holder = f"in use by process {os.getpid()} on {os.uname().nodename}. Wait"
    with (
        locked(tmp_path),
        pytest.raises(OutputInUseError, match=re.escape(holder)),
        locked(tmp_path),
    ):
        pass
    for instead, advice in (("", "Wait for it or stop it$"), ("go", "Wait for it, stop it, or go$")):
        with locked(tmp_path), pytest.raises(OutputInUseError, match=advice), locked(tmp_path, instead):
            pass
    with locked(tmp_path):
        pass


def test_lock_goes_with_its_process_even_by_kill_9(tmp_path):
    code = (
        "import pathlib, sys, time; from cotbal.runs.store import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(OutputInUseError, match=f"process {holder.pid}"), locked(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(tmp_path):
        pass


def test_lock_leaves_no_file_behind_and_keeps_apart_who_waited_for_it(tmp_path, monkeypatch):
    """Who opened the file before it was removed must not hold a file that nobody else sees."""
    with pytest.raises(ValueError, match="refused"), locked(tmp_path):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(locked(tmp_path))
    monkeypatch.setattr("cotbal.runs.store.time.sleep", lambda _: first.close())
    second.enter_context(locked(tmp_path))
    with second, pytest.raises(OutputInUseError, match="Wait for it"), locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_whether_a_folder_is_in_use_can_be_asked_without_disturbing_its_user(tmp_path):
    assert not in_use(tmp_path / "out")
    with locked(tmp_path / "out"):
        assert in_use(tmp_path / "out")
    assert not in_use(tmp_path / "out")
    with locked(tmp_path / "out"):
        pass


def test_disk_without_locks_is_told_with_what_helps(tmp_path, monkeypatch):
    def flock(handle, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("cotbal.runs.store.fcntl.flock", flock)
    told = r"expected a disk with file locks \(flock\).*got: Function not implemented; .*option flock"
    with pytest.raises(OSError, match=told), locked(tmp_path):
        pass
    assert not in_use(tmp_path)


def test_lock_waits_for_one_who_only_asks(tmp_path, monkeypatch):
    handle = os.open(tmp_path / ".lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_SH)
    monkeypatch.setattr("cotbal.runs.store.time.sleep", lambda _: fcntl.flock(handle, fcntl.LOCK_UN))
    try:
        with locked(tmp_path):
            assert in_use(tmp_path)
    finally:
        os.close(handle)
