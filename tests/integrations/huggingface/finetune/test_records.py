"""Records of several files: what they are called, what is counted, whether pictures are mixed with text."""

import hashlib
import json
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from cotbal.integrations.huggingface.finetune.records import Records, check_pictures, read_files
from tests.integrations.huggingface.finetune.world import mixture, record


def test_several_files(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.json", "two.jsonl")]
    paths[0].write_text(json.dumps(mixture()[:3]))
    paths[1].write_text("".join(json.dumps(each) + "\n" for each in mixture()[3:]))
    read = read_files(list(map(str, paths)))
    assert [read.name(place) for place in (0, 2, 3, 11)] == [
        f"{paths[0]}, record 1",
        f"{paths[0]}, record 3",
        f"{paths[1]}, record 1",
        f"{paths[1]}, record 9",
    ]
    assert read[3]["item"].name == f"{paths[1]}, record 1"
    assert (read[3]["task"], read.counts) == ("chat", {"vqa": 6, "chat": 6})
    assert read.digests == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert read.images == {f"{2 * n}.png": 2 * n for n in range(6)}


def test_turns_under_both_keys_are_refused(tmp_path: Path) -> None:
    """Those under `conversations`, which `cotbal data check` looks at, were left out without a word."""
    turns = [{"role": "user", "content": "which number"}, {"role": "assistant", "content": "seven"}]
    (tmp_path / "a.json").write_text(json.dumps([record(1, ("what", "red")) | {"messages": turns}]))
    with pytest.raises(ValueError, match=r"record 1: expected its turns in .* or in `messages`, got both"):
        read_files([str(tmp_path / "a.json")])


def test_messages_that_are_null_are_none(tmp_path: Path) -> None:
    """As exports of a table write the columns that a record does not use."""
    (tmp_path / "t.json").write_text(json.dumps([mixture()[1] | {"messages": None, "image": None}]))
    assert read_files([str(tmp_path / "t.json")])[0]["item"].dialogue.turns[0].text == "what is here"


@pytest.mark.parametrize(("chosen", "is_mixed"), [((0, 2), False), ((1, 3), False), ((0, 1), True)])
def test_whether_some_have_a_picture(chosen: tuple[int, ...], is_mixed: bool, tmp_path: Path) -> None:
    several = {"image": ["0.png", "2.png"]} | record(9, ("<image><image> what", "it"))
    path = tmp_path / "train.json"
    path.write_text(json.dumps([mixture()[n] for n in chosen] + ([several] if 0 in chosen else [])))
    assert read_files([str(path)]).is_mixed is is_mixed


CONVERSATION = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}
MESSAGES = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}


@pytest.mark.parametrize(
    ("form", "key", "value"),
    [
        (CONVERSATION, "tools", "[{}]"),
        (CONVERSATION, "video", "1.mp4"),
        (MESSAGES, "videos", ["1.mp4"]),
        (MESSAGES, "tools", "[{}]"),
        (MESSAGES, "objects", {"ref": [], "bbox": [[1, 2, 3, 4]]}),
    ],
)
def test_a_key_that_nothing_is_trained_of(form: dict, key: str, value: object, tmp_path: Path) -> None:
    """As LLaMA-Factory's and ms-swift's records have them: the training would be without it, in silence."""
    path = tmp_path / "t.jsonl"
    for nothing in (None, "", []):
        path.write_text(json.dumps(form | {"task": "chat", key: nothing}))
        assert len(read_files([str(path)])) == 1
    path.write_text(json.dumps(form | {"task": "chat", key: value}))
    with pytest.raises(ValueError, match=rf"record 1: .* got the key '{key}', which is not read; move"):
        read_files([str(path)])


@pytest.mark.parametrize("form", [CONVERSATION, MESSAGES])
def test_a_system_message_and_pictures_under_keys_of_their_own(form: dict, tmp_path: Path) -> None:
    """As LLaMA-Factory's and ms-swift's records have them."""
    path, (kind,) = tmp_path / "t.jsonl", form
    text = "value" if kind == "conversations" else "content"
    question, answer = form[kind]
    turns = [question | {text: "<image>hi<image>"}, answer]
    given = {kind: turns, "system": "You are a pirate.", "image": None, "images": ["1.png", "2.png"]}
    path.write_text(json.dumps(given | {"task": "chat"}))
    dialogue = read_files([str(path)])[0]["item"].dialogue
    assert dialogue.images == ("1.png", "2.png")
    assert [tuple(turn) for turn in dialogue.turns][:2] == [
        ("system", "You are a pirate."),
        ("user", "<image>hi<image>"),
    ]
    first = {"from": "system", "role": "system", text: "Be brief."}
    for wrong, said in (
        ({"image": "1.png"}, "record 1: expected the pictures in `image` or in `images`, got both; keep one"),
        ({kind: [first, *turns]}, "record 1: expected one system message, got `system` and a first turn"),
        ({"system": 7}, "record 1: expected a text in `system`, got 7"),
    ):
        path.write_text(json.dumps(given | {"task": "chat"} | wrong))
        with pytest.raises(ValueError, match=said):
            read_files([str(path)])


@pytest.mark.parametrize("form", [CONVERSATION, MESSAGES])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tool_calls", [{"function": {"name": "add", "arguments": {}}}]),
        ("reasoning_content", "Two and two."),
        ("thinking", "Two and two."),
        ("images", ["1.png"]),
        ("train_detail", [{"begin_offset": 0, "end_offset": 1, "train": False}]),
    ],
)
def test_a_key_of_a_turn_that_nothing_is_trained_of(form: dict, key: str, value: Any, tmp_path: Path) -> None:
    """An answer that calls a tool has often no text beside it: an empty one would be trained."""
    path, (kind,) = tmp_path / "t.jsonl", form
    text = "value" if kind == "conversations" else "content"
    question, answer = form[kind]
    for nothing in (None, "", []):
        path.write_text(json.dumps({kind: [question, answer | {key: nothing}], "task": "chat"}))
        assert len(read_files([str(path)])) == 1
    for given in ({key: value}, {key: value, text: ""}, {key: value, text: None}):
        path.write_text(json.dumps({kind: [question, answer | given], "task": "chat"}))
        with pytest.raises(ValueError, match=rf"record 1: .* got a turn's '{key}', which is not read; move"):
            read_files([str(path)])


@pytest.mark.parametrize("mark", [{"loss": False}, {"weight": 0}, {"train": False}, {"training": False}])
def test_a_turn_that_is_not_to_be_trained_on(mark: dict, tmp_path: Path) -> None:
    question, answer = MESSAGES["messages"]
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"messages": [question, answer | mark, question, answer], "task": "chat"}))
    with pytest.raises(
        ValueError, match=r"all trained on, got a turn of '(loss|weight|train|training)' .*; part the record"
    ):
        read_files([str(path)])
    # A question is not trained on in any case.
    turns = [question | mark, answer | dict.fromkeys(mark, True)]
    path.write_text(json.dumps({"messages": turns, "task": "chat"}))
    assert len(read_files([str(path)])) == 1


def test_the_first_of_many_pictures_that_are_not_there(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(2400)]
    for name in names:
        (tmp_path / name).touch()
    path = tmp_path / "t.jsonl"
    rows = [record(n, ("<image>" * 600, "it")) | {"image": names[600 * n : 600 * n + 600]} for n in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    read = read_files([str(path)])
    check_pictures(read, tmp_path)
    for gone in (2300, 1100, 1900):
        (tmp_path / names[gone]).unlink()
    said = r"3 of 2400 pictures are not there, the first is .*1100.png of .*t.jsonl, record 2$"
    with pytest.raises(ValueError, match=said):
        check_pictures(read, tmp_path)


def _own_memory() -> int:
    """Bytes that this process alone has."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) * 1024


def _growth(records: Records, told: Connection) -> None:
    before = _own_memory()
    for n in range(len(records)):
        records[n]
    told.send(_own_memory() - before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's tally of memory")
def test_a_loading_process_does_not_copy_the_texts_that_it_reads(tmp_path: Path) -> None:
    """As Python would of a list of texts: with every process of every rank it adds up."""
    path, answer = tmp_path / "t.jsonl", "it is " * 600
    path.write_text("\n".join(json.dumps(record(n, ("what", answer))) for n in range(8000)))
    ours, theirs = get_context("fork").Pipe()
    process = get_context("fork").Process(target=_growth, args=(read_files([str(path)]), theirs))
    process.start()
    assert ours.poll(60)
    growth = ours.recv()
    process.join()
    assert growth < path.stat().st_size / 4
