"""What cannot be right ends the command with one line and code 2, before anything is trained."""

import inspect
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.integrations import HfDeepSpeedConfig

from cotbal.integrations.huggingface.chat_template import ChatTemplate
from cotbal.integrations.huggingface.finetune import entry, options
from cotbal.integrations.huggingface.finetune.model import dtype_of, stops_of
from tests.integrations.huggingface.chat_world import World, make_world
from tests.integrations.huggingface.finetune.world import GROUPED, mixture, record, run, words, write

_TURN = ("what is it", "red")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def refused(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that is said of some records, or of other words."""

    def said(*records: dict[str, Any], model: str = "text", **options: Any) -> str:
        given = write(tmp_path, records or mixture(is_pictured=False))
        out = tmp_path / "out"
        assert run([*given, *words(world, getattr(world, model, model), out, **options)]) == 2
        assert not out.exists()
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("cotbal: ")
        return line

    return said


def _turns(*roles: str) -> dict[str, Any]:
    return {"task": "vqa", "conversations": [{"from": role, "value": "what " * 9} for role in roles]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"task": "vqa"}, "expected `conversations` as"),
        ({"task": "vqa", "messages": [{"role": "user", "content": "q"}]}, "expected `messages` as"),
        (_turns("human", "gpt", "human"), "; the last of 3 turns has no answer"),
        (_turns("system", "human", "gpt", "gpt", "human"), "; turn 4 of 5 is by 'gpt'"),
        ({"task": "vqa", "conversations": [{"from": "human"}]}, 'in turn, got [{"from": "human"}]'),
        (record(1, _TURN) | {"image": ""}, 'got ""; a record without a picture has no `image`'),
        ({"conversations": record(1, _TURN)["conversations"]}, "expected its task in 'task' or 'channel'"),
        (
            record(1, _TURN) | {"image": "0.png"},
            "expected 1 <image> in its turns, one for each picture, got 0",
        ),
        (record(1, ("<image> what", "it")), "expected 0 <image> in its turns, one for each picture, got 1"),
        (
            record(1, _TURN, ("what", "<image>")) | {"image": "0.png"},
            "expected every <image> in a question, got one in an answer",
        ),
    ],
)
def test_a_record(value: dict[str, Any], expected: str, refused: Callable[..., str]) -> None:
    said = refused(record(0, _TURN), value)
    assert "train.json, record 2: " in said
    assert expected in said


def test_a_record_that_is_too_long_is_told_before_the_first_step(refused: Callable[..., str]) -> None:
    """By its text, or by what is before its answer while all others are longer as a whole."""
    others = [record(n, ("what", "red that " * 20)) for n in range(40)]
    long = record(40, ("what", "red that " * 5000))
    assert "train.json, record 41: expected at most " in refused(*others, long)
    late = record(40, ("what is it " * 12, "red"))
    assert "record 41: expected an answer within 30 tokens, got none" in refused(*others, late, max_length=30)


def test_tasks_and_weights(refused: Callable[..., str], tmp_path: Path, world: World) -> None:
    said = refused(record(0, _TURN, task="vqa"), record(1, _TURN, task="chats"))
    assert "--data: 1 of 2 records have a task without a weight, 'chats' (did you mean 'chat'?)" in said
    assert "tasks: expected FILE=TASK" in refused(tasks="train.json")
    (tmp_path / "none").mkdir()
    bad = write(tmp_path / "none", mixture(False), {"vqa": -1.0})
    assert run([*bad, *words(world, world.text, tmp_path / "out")]) == 2


def test_files(
    refused: Callable[..., str], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = write(tmp_path, mixture(False))
    assert run(["--data", str(tmp_path / "no.json"), *words(world, world.text, tmp_path / "out")]) == 2
    assert "expected a file that can be read, got " in capsys.readouterr().err
    (tmp_path / "train.json").write_text("[{}")
    assert run([*given, *words(world, world.text, tmp_path / "out")]) == 2
    assert "train.json, record 1: " in capsys.readouterr().err
    said = refused(*mixture(), record(1, _TURN, image="no.png"), model="vision")
    assert "1 of 7 pictures are not there, the first is " in said
    assert "no.png of " in said
    assert "train.json, record 13" in said


def test_a_model_and_its_words(refused: Callable[..., str], world: World, tmp_path: Path) -> None:
    assert "expected no pictures, as qwen2 takes text alone, got 0.png in " in refused(*mixture())
    assert "--chat_template_kwargs: expected a JSON object, got '[]'" in refused(chat_template_kwargs="[]")
    assert "--chat_template_kwargs: expected a JSON object, got 'x'" in refused(chat_template_kwargs="x")
    assert "--lora_rank: expected at least 0, got -1" in refused(lora_rank=-1)
    assert "--max_length: expected at least 1, got 0" in refused(max_length=0)
    assert "--train_vision: expected no --lora_rank beside it" in refused(lora_rank=1, train_vision=True)
    assert "expected it or --load_in_8bit, got both" in refused(
        lora_rank=1, load_in_4bit=True, load_in_8bit=True
    )
    assert "--load_in_8bit: expected --lora_rank beside it" in refused(load_in_8bit=True)
    for name, value in (("lora_alpha", 8), ("lora_dropout", 0.0)):
        assert f"--{name}: expected --lora_rank beside it, got none" in refused(**{name: value})
    assert "--remove_unused_columns: expected it absent" in refused(remove_unused_columns=True)
    if "train_sampling_strategy" in GROUPED:
        assert "random, sequential or group_by_length" in refused(train_sampling_strategy="batch_rebalance")
    assert "--save_only_model: expected it absent, got True" in refused(save_only_model=True)
    assert "from the newest checkpoint in --output_dir" in refused(resume_from_checkpoint="out/checkpoint-1")
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert "right behind each" not in refused(chat_template=tmp_path / "no.jinja")
    template.write_text("{% for m in messages %}{{ m.content }")
    assert "TemplateSyntaxError" in refused(chat_template=template)
    template.write_text("{{ raise_exception('System role not supported') }}")
    said = refused(chat_template=template, system="it")
    assert "record 1: expected a chat template that takes system user, got TemplateError: System role" in said
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in world.text.iterdir():
        if path.name != "chat_template.jinja":
            (plain / path.name).write_bytes(path.read_bytes())
    given = write(tmp_path, mixture(False))
    assert run([*given, *words(world, plain, tmp_path / "out")]) == 2


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size: expected at least 1, got 0"),
        ({"gradient_accumulation_steps": -2}, "--gradient_accumulation_steps: expected at least 1, got -2"),
        ({"dataloader_num_workers": -1}, "--dataloader_num_workers: expected at least 0, got -1"),
        (
            {"max_steps": -1, "num_train_epochs": 0},
            "--num_train_epochs: expected a number above 0, or --max_steps, got 0",
        ),
        ({"max_steps": -1, "num_train_epochs": "nan"}, "--num_train_epochs: expected a number above 0"),
        ({"max_steps": -1, "num_train_epochs": "inf"}, "--num_train_epochs: expected a number above 0"),
        (
            {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 0},
            "--dataloader_prefetch_factor: expected at least 1, got 0",
        ),
        ({"learning_rate": -1}, "--learning_rate: expected at least 0, got -1.0"),
        ({"learning_rate": "nan"}, "--learning_rate: expected at least 0, got nan"),
        ({"learning_rate": "inf"}, "--learning_rate: expected at least 0, got inf"),
        ({"weight_decay": -0.1}, "--weight_decay: expected at least 0, got -0.1"),
        ({"adam_epsilon": -1}, "--adam_epsilon: expected at least 0, got -1.0"),
        ({"neftune_noise_alpha": -1}, "--neftune_noise_alpha: expected at least 0, got -1.0"),
        ({"adam_beta1": 1.5}, "--adam_beta1: expected a number of at least 0 and below 1, got 1.5"),
        ({"adam_beta2": 1}, "--adam_beta2: expected a number of at least 0 and below 1, got 1.0"),
        ({"adam_beta2": "nan"}, "--adam_beta2: expected a number of at least 0 and below 1, got nan"),
        # It would train nothing.
        ({"lora_rank": 2, "lora_alpha": 0}, "--lora_alpha: expected at least 1, got 0"),
        (
            {"lora_rank": 2, "lora_dropout": "nan"},
            "--lora_dropout: expected a number of at least 0 and below 1",
        ),
        ({"lora_rank": 2, "lora_dropout": 1}, "--lora_dropout: expected a number of at least 0 and below 1"),
        ({"label_smoothing_factor": 2}, r"--label_smoothing_factor: expected a number in 0..1, got 2.0"),
        (
            {"eval_on_start": True},
            "--eval_on_start: expected it absent, got True: it has no data to evaluate",
        ),
        (
            {"dataloader_persistent_workers": True},
            "--dataloader_persistent_workers: expected --dataloader_num_workers above 0 beside it, got 0",
        ),
        ({"debug": "underflow_overflow"}, "--debug: expected --level logits beside underflow_overflow, "),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": '{"foo": 1}'},
            "--gradient_checkpointing_kwargs: expected words of torch.utils.checkpoint.checkpoint, got "
            "{'foo': 1}: Unexpected keyword",
        ),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": "[1]"},
            "--gradient_checkpointing_kwargs: expected a JSON object, got [1]",
        ),
    ],
)
def test_words_that_no_training_takes(
    words: dict[str, Any], expected: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers, and words that lack others: before the records are read."""
    monkeypatch.setattr(entry, "prepare", None)
    assert refused(**words).startswith(f"cotbal: {expected}")


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    "words",
    [
        {"dataloader_persistent_workers": True, "dataloader_num_workers": 1},
        {"debug": "underflow_overflow", "level": "logits"},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": '{"use_reentrant": false}'},
        # Of no effect.
        {"gradient_checkpointing_kwargs": '{"foo": 1}'},
    ],
)
def test_words_that_go_together(words: dict[str, Any], refused: Callable[..., str]) -> None:
    assert "got no.jinja" in refused(**words, chat_template="no.jinja")


def test_no_batch_is_left(refused: Callable[..., str]) -> None:
    said = refused(record(0, _TURN), dataloader_drop_last=True, per_device_train_batch_size=2)
    assert "--dataloader_drop_last: expected a whole batch of 2 records, got 1, of which no step" in said


def test_what_shards_the_model(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeRO-3 that saves no whole model, and a model of few bits in shards."""
    # Without a GPU the library takes no configuration, and what it does take it writes into the environment.
    plain, fsdp = entry.parse, ""

    def parse(words: Sequence[str]) -> tuple[Any, TrainingArguments]:
        options, args = plain(words)
        args.hf_deepspeed_config = HfDeepSpeedConfig({"zero_optimization": content})
        args.fsdp = fsdp
        return options, args

    content = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": False}
    monkeypatch.setattr(entry, "parse", parse)
    # It is told to all of the library; afterwards it is as it was.
    monkeypatch.setattr("transformers.integrations.deepspeed._hf_deepspeed_config_weak_ref", None)
    assert "--deepspeed: expected stage3_gather_16bit_weights_on_model_save true under" in refused()
    content["stage3_gather_16bit_weights_on_model_save"] = True
    said = "got ZeRO-3; a LoRA without it may be sharded"
    assert said in refused(load_in_4bit=True, lora_rank=4)
    monkeypatch.setattr(entry, "_RUN_BY_PICTURE", ("llava",))
    said_of_llava = "as llava runs its projector for each picture anew, got ZeRO-3: "
    assert said_of_llava in refused(*mixture(), model="vision")
    content["stage"] = 2
    fsdp = "full_shard"
    assert "got FSDP" in refused(load_in_8bit=True, lora_rank=4)


def test_deepspeed_that_cannot_start(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a launcher it would ask for MPI, in a traceback behind the model."""
    monkeypatch.delenv("RANK", raising=False)
    zero = '{"zero_optimization": {"stage": 2}}'
    assert "--deepspeed: expected a launcher, also for one GPU, got none: torchrun" in refused(deepspeed=zero)
    monkeypatch.setattr(options, "find_spec", lambda _: None)
    assert "--deepspeed: expected the package, got none: pip install" in refused(deepspeed=zero)


def test_a_model_that_is_not_there(refused: Callable[..., str]) -> None:
    """Of a path to nothing transformers says that it is no repository's name."""
    expected = "cotbal: --model: expected a model's folder, or a repository's name on the Hub, got "
    assert refused(model="./none") == f"{expected}./none, where no folder is"
    assert refused(model="docs").startswith(f"{expected}docs: Unrecognized model in docs")


def test_the_precision(tmp_path: Path) -> None:
    """What is trained is kept in float32, unless DeepSpeed keeps it so."""

    def chosen(name: str = "auto", lora: bool = False, engine: Any = None, **flags: bool) -> torch.dtype:
        given = {"bf16": False, "fp16": False, "deepspeed": engine} | flags
        return dtype_of(name, SimpleNamespace(**given), lora)

    assert chosen(bf16=True) == chosen(fp16=True) == chosen(lora=True) == torch.float32
    assert chosen(bf16=True, lora=True) == chosen(bf16=True, engine="zero2.json") == torch.bfloat16
    assert chosen(fp16=True, lora=True) == chosen("float16") == torch.float16
    assert TrainingArguments(str(tmp_path), use_cpu=True).deepspeed is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grokadamw", "grokadamw: Please install"),
        ("galore_adamw", "galore_adamw: You need to install `galore_torch`"),
        ("schedule_free_adamw", "install `schedulefree`"),
    ],
)
def test_an_optimizer_without_its_package(
    name: str, expected: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the model is loaded."""
    monkeypatch.setattr(entry, "load_model", None)
    said = refused(optim=name)
    assert said.startswith("cotbal: --optim: expected an optimizer that can be made, got ")
    assert expected in said


def test_an_optimizer_that_looks_at_the_model(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it finds there is not asked before there is a model; what it is not told is."""
    module = ModuleType("galore_torch")
    for name in ("GaLoreAdamW", "GaLoreAdamW8bit", "GaLoreAdafactor"):
        setattr(module, name, type(name, (), {}))
    monkeypatch.setitem(sys.modules, "galore_torch", module)
    place = inspect.getmodule(Trainer.get_optimizer_cls_and_kwargs)
    for holder in (place, sys.modules.get("transformers.trainer_optimizer")):
        if hasattr(holder, "is_galore_torch_available"):
            monkeypatch.setattr(holder, "is_galore_torch_available", lambda: True)
    assert "You need to define `optim_target_modules`" in refused(optim="galore_adamw")
    said = refused(optim="galore_adamw", optim_target_modules="all-linear", chat_template="no.jinja")
    assert "got no.jinja" in said


def test_words_of_an_optimizer_and_a_tracker(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert " with --optim_args foo: " in refused(optim_args="foo")
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    said = refused(report_to="wandb")
    assert "--report_to: expected trackers that are installed, got WandbCallback: " in said
    assert "pip install wandb" in said


def test_a_hub_that_cannot_be_written(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before the model is loaded, and only where the data is right."""
    monkeypatch.setattr(entry, "load_model", None)
    given: list[tuple[str, dict[str, Any]]] = []

    def create_repo(name: str, **words: Any) -> None:
        given.append((name, words))
        raise RuntimeError("no\nroute")

    monkeypatch.setattr(entry, "create_repo", create_repo)
    said = refused(push_to_hub=True)
    assert (
        "--push_to_hub: expected a repository out that can be written, got RuntimeError: no route; " in said
    )
    assert "me/mine that can be written" in refused(push_to_hub=True, hub_model_id="me/mine", hub_token="t")
    assert given[1] == ("me/mine", {"token": "t", "private": None, "exist_ok": True})
    assert "got no.jinja" in refused(push_to_hub=True, chat_template="no.jinja")
    assert len(given) == 2


def test_words_of_a_schedule(refused: Callable[..., str]) -> None:
    said = refused(lr_scheduler_type="cosine_with_min_lr")
    assert "got cosine_with_min_lr with None: One of min_lr or min_lr_rate" in said
    said = refused(lr_scheduler_type="linear", lr_scheduler_kwargs='{"min_lr": 1e-6}')
    assert (
        "--lr_scheduler_type: expected it with its own --lr_scheduler_kwargs, got linear with {'min_" in said
    )
    words = {"lr_scheduler_kwargs": '{"min_lr": 1e-6}', "lr_scheduler_type": "cosine_with_min_lr"}
    assert "got no.jinja" in refused(**words, chat_template="no.jinja")


def test_where_generation_ends(world: World) -> None:
    """The tokenizer's end first, then what the checkpoint says, ordinary tokens aside."""
    tokenizer = AutoTokenizer.from_pretrained(world.text)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=320, hidden_size=8, num_attention_heads=2))
    model.generation_config.eos_token_id = [2, 50, 3]
    assert stops_of(model, ChatTemplate(tokenizer)) == ["<|end|>", "</s>"]
    model.generation_config.eos_token_id = None
    assert stops_of(model, ChatTemplate(tokenizer)) == ["<|end|>"]
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="expected a tokenizer with an end of text, got none in"):
        stops_of(model, ChatTemplate(tokenizer))


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "Start it again after" in said
    assert '"task": "VQAv2"}' in said
    assert run(["--data", "a.json", "--model", "m", "--output_dir", "o", "--weigths", "w.json"]) == 2
    assert "--weigths" in capsys.readouterr().err


def test_the_model_that_is_read_is_not_written_over(world, tmp_path, capsys):
    out = tmp_path / "model"
    shutil.copytree(world.text, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run([*write(tmp_path, mixture(is_pictured=False)), *words(world, out, out)]) == 2
    assert "--output_dir: expected a place of its own" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
