"""`python -m cotbal.integrations.llava`: what goes where, what it refuses, a real run under each launcher."""

import importlib.machinery
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from llava.train import train as llava_train

from cotbal.integrations.llava.command_line import parse, read_tasks
from cotbal.integrations.llava.entry import choose_attention, main
from cotbal.integrations.llava.hooks import HOOKS, wrapped
from cotbal.integrations.llava.records import TaskRecords
from tests.integrations.llava.cases import WEIGHTS
from tests.integrations.llava.entry_runs import (
    deepspeed_environment,
    own_words,
    run_alone,
    run_script,
    run_torchrun,
)
from tests.integrations.llava.world import World

# LLaVA leaves the data file that it read to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
_HOOKED = ("LazySupervisedDataset", "DataCollatorForSupervisedDataset", "LLaVATrainer")


def test_a_launchers_local_rank_goes_on_to_llava() -> None:
    words = ["--local_rank=1", "--weights", "w.json", "--", "--deepspeed", "z.json", "--", "x"]
    options, rest = parse(words)
    assert options.weights == "w.json"
    assert rest == ["--local_rank=1", "--deepspeed", "z.json", "--", "x"]
    assert parse(words[1:])[1] == rest[1:]


def test_the_help_shows_how_to_start_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for line in ("deepspeed --module cotbal.integrations.llava --weights weights.json -- \\", "exit code 2"):
        assert line.lower() in shown.lower()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weights", "w.json"], "expected LLaVA's own arguments after --, got none"),
        (["--model_name_or_path", "m", "--", "x"], "--model_name_or_path m: not an option of cotbal"),
        (["--weights", "w.json", "--rule", "dwa", "--", "x"], "not allowed with argument --weights"),
        (["--rule", "none", "--", "x"], "invalid choice: 'none'"),
        (["--rule-options", "[1]", "--", "x"], """expected a JSON object, as '{"window": 10}', got '[1]'"""),
        (["--rule-options", "{window: 3}", "--", "x"], "got '{window: 3}'"),
    ],
)
def test_words_that_are_not_known(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(words)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_tasks_are_names_or_files(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    for content in (["VQAv2", "GQA"], {"a.json": "VQAv2", "b=c.json": "GQA"}):
        path.write_text(json.dumps(content))
        assert read_tasks([str(path)]) == content
    path.write_text('["VQAv2"]', encoding="utf-8-sig")
    assert read_tasks([str(path)]) == ["VQAv2"]
    assert read_tasks(["VQAv2", "GQA"]) == ["VQAv2", "GQA"]
    assert read_tasks(["a.json=VQAv2", "b=c.json=GQA"]) == {"a.json": "VQAv2", "b=c.json": "GQA"}
    assert read_tasks(None) is None
    with pytest.raises(ValueError, match=r"--tasks: expected FILE=TASK, .* got 'GQA'"):
        read_tasks(["a.json=VQAv2", "GQA"])


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool, str | None], None]]:
    """Sets whether there is a CUDA device and what importing flash-attn raises; None: it imports."""

    def setting(has_cuda: bool, error: str | None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
        monkeypatch.setattr(sys, "meta_path", [_Flash(error), *sys.meta_path])

    yield setting
    sys.modules.pop("flash_attn", None)


def test_attention_is_flash_where_it_imports_on_cuda(flash: Callable[[bool, str | None], None]) -> None:
    flash(True, None)
    assert choose_attention("auto") == ("flash_attention_2", "flash-attn is installed")
    assert choose_attention("sdpa") == ("sdpa", "asked for")


def test_attention_is_sdpa_without_cuda(flash: Callable[[bool, str | None], None]) -> None:
    flash(False, None)
    assert choose_attention("auto") == ("sdpa", "no CUDA device")


def test_attention_is_sdpa_without_flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_attention("auto") == ("sdpa", "no flash-attn")


def test_a_flash_attn_of_another_torch(flash: Callable[[bool, str | None], None]) -> None:
    """LLaVA itself could not be imported beside it."""
    flash(True, "undefined symbol: _ZN3c105Error")
    for asked in ("auto", "sdpa"):
        with pytest.raises(ImportError, match=r"undefined symbol.*--force-reinstall"):
            choose_attention(asked)


_BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a record without a task": (
        {"change": lambda records: records[5].pop("task")},
        "record 'caption-5': expected its task in 'task'",
    ),
    "an unknown task": (
        {"change": lambda records: records[5].update(task="captions")},
        "1 of 48 records have a task without a weight, the first is record 'caption-5' of 'captions'",
    ),
    "weights for other tasks": (
        {"weights": {"VQAv2": 1.1, "GQA": 0.9}},
        "48 of 48 records have a task without a weight",
    ),
    "a negative weight": ({"weights": WEIGHTS | {"vqa": -1}}, "weights['vqa']: expected a finite weight"),
    "a list of weights without names": ({"weights": [1, 2]}, "expected the names of the list's 2 weights"),
    "no weights file": ({"words": ["--weights", "none.json"]}, "got none.json: No such file"),
    "a rule's option that it has not": (
        {"words": ["--rule", "tla", "--rule-options", '{"window": 3}']},
        "unexpected keyword argument 'window'",
    ),
    "options of no rule": ({"words": ["--rule-options", '{"window": 3}']}, "expected --rule beside it"),
    "no data file": ({"data": "none.json"}, "got none.json: No such file"),
    "data that is not JSON": ({"data": __file__}, "is not JSON"),
    "the sizes of a mixture": (
        {"data": str(Path(__file__).with_name("zero3.json"))},
        "--data_path: expected a JSON array of records, got an object; of a folder that `cotbal prepare mix` "
        "wrote it is mixture.json",
    ),
    "no data": ({"data": None}, "--data_path: expected LLaVA's data file after --, got none"),
    "no LLaVA": ({"words": ["--module", "no_llava"]}, "no_llava: expected LLaVA's package, got none"),
    "not LLaVA": ({"words": ["--module", "einops"]}, "einops: expected LLaVA's package with its train.train"),
}


@pytest.mark.parametrize("name", _BAD)
def test_bad_input_is_one_sentence_and_code_2(
    name: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, said = _BAD[name]
    before = {name: dict(vars(getattr(llava_train, name))) for name in _HOOKED}
    assert main(_bad_words(world, tmp_path, **given)) == 2
    error = capsys.readouterr().err
    assert error.startswith("cotbal: ")
    assert said in error
    assert error.count("\n") == 1
    assert before == {name: dict(vars(getattr(llava_train, name))) for name in _HOOKED}


def test_an_object_that_llava_next_takes_apart() -> None:
    """It extends its list of records by what it read: by an object's keys."""
    with pytest.raises(ValueError, match="expected a JSON array of records, got 'seed' in it; of a folder"):
        TaskRecords().learn(["seed"])


@pytest.mark.parametrize("version", ["4.31.0", "5.0.0"])
def test_another_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    """Beside which LLaVA's own import fails, with a message that does not tell why."""
    (tmp_path / "beside.py").write_text("raise ImportError('cannot import name LlavaLlamaForCausalLM')")
    monkeypatch.syspath_prepend(tmp_path)
    installed = importlib.metadata.Distribution.from_name("transformers")
    monkeypatch.setattr(type(installed), "version", property(lambda _: version))
    assert main(["--module", "beside", "--", "--data_path", "mix.json"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("cotbal: transformers: expected 4.37 to 4.45 with LLaVA's train.py")
    assert f"got {version}; pip install transformers==4.37.2" in said


def test_a_package_that_llava_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "needing" / "train").mkdir(parents=True)
    (tmp_path / "needing" / "train" / "train.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["--module", "needing", "--", "--data_path", "mix.json"]) == 2
    assert "needing's training code needs it: install no_such_package" in capsys.readouterr().err


def test_a_library_of_another_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its OSError names no file."""
    (tmp_path / "unloadable" / "train").mkdir(parents=True)
    content = "raise OSError('libtorchaudio.so: undefined symbol: _ZN3c10')"
    (tmp_path / "unloadable" / "train" / "train.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["--module", "unloadable", "--", "--data_path", "mix.json"]) == 2
    assert "got libtorchaudio.so: undefined symbol: _ZN3c10" in capsys.readouterr().err


def test_a_refusal_comes_before_the_model(world: World, tmp_path: Path) -> None:
    """In a process of its own, with a model that there is not: nothing looked for it."""
    given, said = _BAD["an unknown task"]
    run = run_alone(*_bad_words(world, tmp_path, **given))
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_empty_parameter_groups_are_dropped_before_the_scheduler_counts_them() -> None:
    class Trainer:
        def create_optimizer(self) -> torch.optim.Optimizer:
            groups = [{"params": [torch.zeros(1)]}, {"params": []}, {"params": [torch.zeros(2)], "lr": 2e-5}]
            return torch.optim.AdamW(groups, lr=2e-4)

    Trainer.create_optimizer = wrapped(Trainer.create_optimizer, HOOKS["create_optimizer"])
    groups = Trainer().create_optimizer().param_groups
    assert [(len(group["params"]), group["lr"]) for group in groups] == [(1, 2e-4), (1, 2e-5)]


@pytest.mark.full
def test_torchrun(world: World, tmp_path: Path) -> None:
    weights = _file(tmp_path / "weights.json", WEIGHTS)
    run = run_torchrun("--weights", weights, "--", *own_words(world, tmp_path / "out"))
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("cotbal: attention sdpa (no CUDA device)") == 1
    assert "Steps: 6, of 8 (processes 2, accumulated 1, per device 4) samples" in _card(tmp_path / "out")


@pytest.mark.full
def test_torchrun_with_bad_data(world: World, tmp_path: Path) -> None:
    given, said = _BAD["an unknown task"]
    words = _bad_words(world, tmp_path, **given)
    start = words.index("--") + 1
    # With all that LLaVA asks for, so that rank 1 waits for rank 0 in place of ending over a missing option.
    run = run_torchrun(*words[:start], *own_words(world, tmp_path / "out"), *words[start:])
    assert run.returncode != 0
    assert run.stderr.count(f"cotbal: data: {said}") == 1


@pytest.mark.full
@pytest.mark.parametrize(("script", "steps"), [("finetune.sh", 3), ("finetune_lora.sh", 3)])
def test_the_scripts_under_deepspeeds_launcher(world: World, tmp_path: Path, script: str, steps: int) -> None:
    """The recipe's own words, ZeRO-3 included, on the tiny world; only what needs a GPU is taken back."""
    environment = deepspeed_environment(tmp_path / "bin") | {
        "WEIGHTS": str(_file(tmp_path / "weights.json", WEIGHTS)),
        "DATA": str(world.data),
        "IMAGES": str(world.images),
        "OUTPUT": str(tmp_path / "out"),
        "MODEL": str(world.model("scaled")),
        "TOWER": str(world.tower),
        "PROJECTOR": "",
        "GPUS": "2",
    }
    taken_back = ["--tf32", False, "--report_to", "none", "--dataloader_num_workers", 0]
    run = run_script(script, *taken_back, "--max_steps", steps, environment=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    card = _card(tmp_path / "out")
    assert f"Steps: {steps}, of 32 (processes 2, accumulated 1, per device 16) samples" in card
    assert "linear level" in card
    saved = "adapter_model.safetensors" if "lora" in script else "model.safetensors"
    assert (tmp_path / "out" / saved).exists()


def test_the_scripts_words(tmp_path: Path) -> None:
    """The paper's recipe as it reaches the launcher, with LoRA's over it and the user's own last."""
    environment = deepspeed_environment(tmp_path / "bin") | {"WEIGHTS": "w", "DATA": "d", "IMAGES": "i"}
    (tmp_path / "bin" / "deepspeed").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    run = run_script("finetune_lora.sh", "--run_name", "two words", environment=environment)
    words = run.stdout.splitlines()
    assert words[:6] == ["--num_gpus", "8", "--module", "cotbal.integrations.llava", "--weights", "w"]
    options = dict(zip(words[7::2], words[8::2], strict=True))
    assert Path(options["--deepspeed"]).is_file()
    batch = {"--per_device_train_batch_size": "16", "--gradient_accumulation_steps": "1", "--bf16": "True"}
    assert options.items() >= batch.items()
    assert words.index("--learning_rate") < words.index("2e-4")
    assert (options["--learning_rate"], options["--lora_r"], words[-1]) == ("2e-4", "128", "two words")


def _bad_words(
    world: World,
    folder: Path,
    *,
    change: Callable[[list[dict[str, Any]]], object] = lambda records: None,
    weights: Any = WEIGHTS,
    words: list[str] | None = None,
    data: str | None = "",
) -> list[str]:
    records = json.loads(world.data.read_text())
    change(records)
    path = _file(folder / "records.json", records)
    weights_words = words or ["--weights", str(_file(folder / "weights.json", weights))]
    data_words = [] if data is None else ["--data_path", data or str(path)]
    return [*weights_words, "--", "--model_name_or_path", "no-model", *data_words]


def _file(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def _card(output: Path) -> str:
    return (output / "README.md").read_text()


class _Flash:
    """Finds a flash-attn that is empty or raises when it is imported."""

    def __init__(self, error: str | None) -> None:
        self.error = error

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name == "flash_attn" else None  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        if self.error is not None:
            raise ImportError(self.error)
