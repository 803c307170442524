"""What cannot be exact is refused in a sentence that says what to do, before a model is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integrations.llamafactory import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no llamafactory: make test-llamafactory", allow_module_level=True)

from tests.integrations.llamafactory.runs import Case, run, train

_WRONG = {"vqa": 1.0, "captoin": 1.0, "chat": 1.0}
_DATA = {
    "cotbal_data": str(Path(__file__).with_name("one_record.json")),
    "dataset": None,
    "dataset_dir": None,
}
# What is changed in a yaml that trains, and what is said then.
SETTINGS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"stage": "pt"}, "stage: expected sft, got pt, whose loss has no tasks; train it with llamafactory-cli"),
    ({"do_train": False}, "do_train: expected true, got false; evaluation has no weights: llamafactory-cli"),
    ({"packing": True}, "packing: expected it unset or false, got True: a packed row holds records of"),
    ({"neat_packing": True}, "neat_packing: expected it unset or false, got True: a packed row holds"),
    ({"use_dft_loss": True}, "use_dft_loss: expected it unset or false, got True: it trains on another loss"),
    ({"use_eaft_loss": True}, "use_eaft_loss: expected it unset or false, got True: it trains on another"),
    ({"use_asft_loss": True}, "use_asft_loss: expected it unset or false, got True: it trains on another"),
    ({"use_hyper_parallel": True}, "use_hyper_parallel: expected it unset or false, got True: it trains by"),
    ({"label_smoothing_factor": 0.1}, "label_smoothing_factor: expected it unset or false, got 0.1: transf"),
    (
        {"dataset": "vqa,caption,vqa"},
        "dataset: each task may stand once, repeated: vqa; LLaMA-Factory itself",
    ),
    (
        {"cotbal_weights": _WRONG},
        "tasks: no weight for task 'caption' (did you mean 'captoin'?); known tasks: captoin, chat, vqa",
    ),
    ({"cotbal_weights": _WRONG}, "Tasks are the names in `dataset`: vqa, caption, chat"),
    ({"cotbal_weights": [1.0, 2.0]}, "cotbal_weights: "),
    ({"cotbal_weights": "none.json"}, "cotbal_weights: expected a file that can be read, got none.json"),
    ({"cotbal_weight": {}}, "got 'cotbal_weight' (did you mean 'cotbal_weights'?)"),
    ({"cotbal_rule": "dwa"}, "cotbal_rule: expected no cotbal_weights beside it, got both"),
    ({"cotbal_rule_options": {}}, "cotbal_rule_options: expected cotbal_rule beside it, got none"),
    ({"cotbal_rule": "dwb", "cotbal_weights": None}, "cotbal_rule: weighting: expected one of static, tla"),
    (
        {"cotbal_rule": "dwa", "cotbal_weights": None, "cotbal_rule_options": {"fixed": {"cht": 1.0}}},
        "cotbal_rule: fixed: expected a task of the data, got 'cht' (did you mean 'chat'?)",
    ),
    (
        {"cotbal_data": "data.jsonl"},
        "dataset: expected none beside cotbal_data, got vqa,caption,chat: the tasks of its records are the",
    ),
    (
        _DATA | {"dataset_dir": "."},
        "dataset_dir: expected none beside cotbal_data, got .: its records are all",
    ),
    (_DATA | {"eval_dataset": "vqa"}, "eval_dataset: expected none beside cotbal_data, got vqa: it would be"),
    (
        _DATA | {"tokenized_path": "t"},
        "tokenized_path: expected none beside cotbal_data, got t: what lies the",
    ),
    (
        _DATA | {"cotbal_data": "none.jsonl"},
        "cotbal_data: expected a file that can be read, got none.jsonl: ",
    ),
    (_DATA | {"media_dir": None}, "media_dir: expected the folder of the records' pictures, got none"),
    (
        _DATA | {"cotbal_weights": {"cht": 1.0}},
        "cotbal_weights: tasks: no weight for task 'chat' (did you mean 'cht'?); known tasks: cht. Add it to",
    ),
    (_DATA | {"cotbal_weights": {"cht": 1.0}}, f"Tasks are those in {_DATA['cotbal_data']}: chat"),
    ({"cotbal_level": "lniear"}, "cotbal_level: expected auto, linear, logits, got 'lniear'"),
)
LINES = (
    (
        ["chat", "my.yaml"],
        "expected a yaml file or key=value, got chat; python -m cotbal.integrations.llamaf",
    ),
    (["train"], "expected a yaml file or key=value, got none"),
    (["train", "absent.yaml"], "expected a yaml file that can be read, got absent.yaml"),
)
pytestmark = pytest.mark.timeout(600)


def test_each_in_a_sentence(world: Path, tmp_path: Path) -> None:
    lines = [words for words, _ in LINES]
    for index, (changed, _) in enumerate(SETTINGS):
        path = tmp_path / f"{index}.yaml"
        path.write_text(yaml.safe_dump(Case("refused", options=changed).settings(world, tmp_path / "out")))
        lines.append(["train", str(path)])
    result = run(["-m", "tests.integrations.llamafactory.refuse", json.dumps(lines)], tmp_path)
    assert result.returncode == 0, result.stderr
    outcomes = json.loads(result.stdout.splitlines()[-1])
    for (code, said), (given, expected) in zip(outcomes, (*LINES, *SETTINGS), strict=True):
        lines_of_ours = [line for line in said.splitlines() if line.startswith("cotbal: ")]
        assert code == 2, (given, said)
        assert len(lines_of_ours) == 1, (given, said)
        assert expected in lines_of_ours[0], (given, said)
    assert not (tmp_path / "out").exists()


def test_the_loss_of_liger_and_unsloth_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaMA-Factory itself asks for the packages first, which are not here."""
    from types import SimpleNamespace

    from cotbal.integrations.llamafactory.options import RefusedError, checked_tasks

    for key in ("enable_liger_kernel", "use_unsloth", "use_kt", "use_mca"):
        parsed = SimpleNamespace(stage="sft", do_train=True, dataset=["vqa"], **{key: True})
        with pytest.raises(RefusedError, match=f"{key}: expected it unset or false, got True: it "):
            checked_tasks(parsed)


def test_a_data_set_tokenized_without_tasks(world: Path, tmp_path: Path) -> None:
    """One that stock LLaMA-Factory wrote; ours is read again."""
    (tmp_path / "stock").mkdir()
    for mode, folder in (("stock", "a"), ("ours", "b")):
        case = Case("tokenized", options={"tokenized_path": str(tmp_path / mode / "data"), "max_steps": 1})
        result = train(case, world, tmp_path / folder, mode)
        assert result.returncode == 0, result.stderr
    for mode, code in (("stock", 2), ("ours", 0)):
        case = Case("tokenized", options={"tokenized_path": str(tmp_path / mode / "data"), "max_steps": 1})
        result = train(case, world, tmp_path / f"{mode} again")
        assert result.returncode == code, result.stderr
        assert ("expected the key 'task' in its records, got none" in result.stderr) is (mode == "stock")


@pytest.mark.parametrize("name", ["USE_V1", "USE_RAY"])
def test_another_way_of_training(tmp_path: Path, name: str) -> None:
    result = run(["-m", "cotbal.integrations.llamafactory", "train", "my.yaml"], tmp_path, **{name: "1"})
    assert result.returncode == 2, result.stderr
    assert f"cotbal: {name}: expected it unset, got 1: " in result.stderr


def test_another_version_is_told(tmp_path: Path) -> None:
    program = (
        "import sys, llamafactory.data.loader as loader; del loader._get_preprocessed_dataset; "
        "from cotbal.integrations.llamafactory.entry import main; sys.exit(main(['train', 'my.yaml']))"
    )
    (tmp_path / "my.yaml").write_text("stage: sft")
    result = run(["-c", f"import os; os.chdir({str(tmp_path)!r}); {program}"], tmp_path)
    assert result.returncode == 2, result.stderr
    expected = "cotbal: llamafactory: expected data.loader._get_preprocessed_dataset, got 0.9.5 without it; "
    assert expected in result.stderr
