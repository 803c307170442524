"""Forks of LLaVA by `--module`: another package, other names, another attention."""

import json
import sys
from pathlib import Path

import pytest
from llava.train import train as llava_train

from cotbal.integrations.llava.entry import main
from tests.integrations.llava.world import World

# LLaVA leaves the data file that it read to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
_HOOKED = ("LazySupervisedDataset", "DataCollatorForSupervisedDataset", "LLaVATrainer")
_FORK = """
import json
import sys
from dataclasses import dataclass

from llava.train import train as _llava
from llava.train.train import DataArguments


class LazySupervisedDataset(_llava.LazySupervisedDataset):
    def __init__(self, data_path, tokenizer, data_args):
        assert data_args.data_path == data_path
        with open(data_path) as file:
            self.list_data_dict = json.load(file)


class DataCollatorForSupervisedDataset(_llava.DataCollatorForSupervisedDataset):
    pass


class LLaVATrainer(_llava.LLaVATrainer):
    pass


@dataclass
class TrainingArguments(_llava.TrainingArguments):
    attn_implementation: str = "flash_attention_2"


def train(attn_implementation=None):
    global seen
    seen = (sys.argv[1:], attn_implementation)
"""


def _fork(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str) -> None:
    (folder / name / "train").mkdir(parents=True)
    (folder / name / "train" / "train.py").write_text(content)
    monkeypatch.syspath_prepend(folder)


def test_a_fork_and_its_files_tasks(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fork's package, records that only their file tells the task of, and another attention option."""
    _fork(tmp_path, monkeypatch, "fork", _FORK)
    records = json.loads(world.data.read_text())
    data = tmp_path / "vqa.json"
    data.write_text(json.dumps([{key: record[key] for key in record if key != "task"} for record in records]))
    words = ["--module", "fork", "--tasks", f"{data}=vqa", "--"]
    monkeypatch.setattr(sys, "argv", ["entry"])
    assert main([*words, "--data_path", str(data)]) == 0
    fork = sys.modules["fork.train.train"]
    assert fork.seen == (["--data_path", str(data), "--attn_implementation", "sdpa"], "sdpa")
    assert "48 records: vqa 48; weights all 1" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["LazySupervisedDataset", "LLaVATrainer", "TrainingArguments"])
def test_a_fork_that_calls_things_otherwise(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
) -> None:
    """Bunny's trainer has another name, VILA's dataset is in another module; nothing stays half patched."""
    name = f"without_{missing.lower()}"
    _fork(tmp_path, monkeypatch, name, f"from llava.train.train import *\ndel {missing}\n")
    before = {each: dict(vars(getattr(llava_train, each))) for each in _HOOKED}
    assert main(["--module", name, "--", "--data_path", str(world.data)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"cotbal: {name}.train.train: expected LLaVA's ")
    assert f"got none named {missing}; where a fork" in said
    assert before == {each: dict(vars(getattr(llava_train, each))) for each in _HOOKED}


def test_a_fork_whose_train_takes_no_attention(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = _FORK.replace("attn_implementation=None", "").replace(", attn_implementation)", ",)")
    _fork(
        tmp_path, monkeypatch, "plain_fork", content.replace("    attn_implementation: str", "    other: str")
    )
    monkeypatch.setattr(sys, "argv", ["entry"])
    words = ["--module", "plain_fork", "--", "--data_path", str(world.data)]
    assert main(words) == 0
    assert sys.modules["plain_fork.train.train"].seen == (["--data_path", str(world.data)],)
    assert "attention of its own (plain_fork.train.train's train() takes none)" in capsys.readouterr().out
    assert main(["--attention", "eager", *words]) == 2
    assert "--attention: expected auto with plain_fork.train.train" in capsys.readouterr().err
