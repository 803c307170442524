"""The words of the command, beside those of transformers' own TrainingArguments."""

from __future__ import annotations

import argparse
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cotbal.integrations.level_names import LEVELS

if TYPE_CHECKING:
    from transformers import HfArgumentParser, TrainingArguments

_DESCRIPTION = """\
Fine-tunes a Hugging Face chat model, with pictures or of text alone, on records of several tasks, with one
weight per task in the loss and the exact denominator of the whole optimizer step. Start it again after
anything: it goes on from the newest checkpoint in --output_dir.
"""
_EXAMPLES = """\
examples:
  python -m cotbal.integrations.huggingface.finetune --model HuggingFaceTB/SmolVLM-256M-Instruct \\
      --data mixture/mixture.json --image_folder images --weights weights.json --output_dir smolvlm \\
      --per_device_train_batch_size 8 --learning_rate 1e-5 --num_train_epochs 1 --bf16 True \\
      --save_steps 500 --dataloader_num_workers 4 --train_sampling_strategy group_by_length

  # on 8 GPUs, a LoRA, a file for each task
  torchrun --nproc_per_node 8 -m cotbal.integrations.huggingface.finetune --lora_rank 64 \\
      --model Qwen/Qwen2.5-VL-7B-Instruct --data vqa.json coco.json --tasks vqa.json=VQAv2 coco.json=COCO ...

A record is LLaVA's, {"image": "1.png", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
{"from": "gpt", "value": "A cat."}], "task": "VQAv2"}, or has {"role", "content"} turns under "messages".
--weights is what `cotbal weights` writes, or {"VQAv2": 0.8, "COCO": 1.2}, or a rule (TLA, RLW, DWA, IGBv1):
{"schema_version": 1, "rule": "DWA", "options": {"window": 25}, "fixed": {"COCO": 1.0}}. All other words are
those of transformers' TrainingArguments; --help_all shows them too. Exit code 1: the training was stopped
before its last step; 2: something given cannot be right.
"""


# Smaller ones end in a traceback, once the model is loaded, or train the weights away.
_LEAST = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "adam_epsilon": 0,
    "neftune_noise_alpha": 0,
}


@dataclass
class Options:
    """What transformers' TrainingArguments do not say."""

    model: str = field(metadata={"help": "a folder, or a name of the hub"})
    data: list[str] = field(metadata={"help": "JSON or JSONL files of records, each with its task"})
    image_folder: str = field(default=".", metadata={"help": "of the pictures"})
    weights: str | None = field(
        default_factory=lambda: os.environ.get("COTBAL_WEIGHTS") or None,
        metadata={
            "help": "a file: weights by task, or a rule that changes them, as below (default: the file that "
            "COTBAL_WEIGHTS names, else all 1)"
        },
    )
    tasks: list[str] = field(
        default_factory=list, metadata={"help": "FILE=TASK, for records that do not name theirs"}
    )
    level: str = field(
        default="auto",
        metadata={"help": "where the loss is: at the logits, or in lm_head", "choices": LEVELS},
    )
    max_length: int | None = field(
        default=None, metadata={"help": "longer rows are cut off on the right, within their answers"}
    )
    train_vision: bool = field(default=False, metadata={"help": "train the vision tower too"})
    lora_rank: int = field(default=0, metadata={"help": "a LoRA on the language model; 0: train all of it"})
    lora_alpha: int | None = field(default=None, metadata={"help": "default: twice the rank"})
    lora_dropout: float | None = field(default=None, metadata={"help": "of a LoRA (default: 0.05)"})
    load_in_4bit: bool = field(default=False, metadata={"help": "QLoRA: the model under the LoRA in NF4"})
    load_in_8bit: bool = field(default=False, metadata={"help": "likewise in 8 bits, both by bitsandbytes"})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "of the parameters; auto: as --bf16 or --fp16 under a LoRA and DeepSpeed, else float32",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
    attention: str | None = field(
        default=None, metadata={"help": "such as flash_attention_2 (default: transformers' own choice)"}
    )
    chat_template: str | None = field(
        default=None,
        metadata={"help": "a Jinja file in place of the model's own; it is saved with the model"},
    )
    chat_template_kwargs: str = field(
        default="{}",
        metadata={"help": "JSON: variables of the chat template, '{\"enable_thinking\": false}'"},
    )
    image_processor_kwargs: str = field(
        default="{}",
        metadata={
            "help": "JSON: settings of the image processor, '{\"max_pixels\": 1003520}' of Qwen-VL's; "
            "they are saved with the model"
        },
    )
    system: str | None = field(
        default=None, metadata={"help": "a system message, for records that begin with none"}
    )
    newline_after_image: bool = field(
        default=False, metadata={"help": "ask on the line after the picture, as LLaVA's records have it"}
    )

    def __post_init__(self) -> None:
        _check_least(self, {"max_length": 1, "lora_rank": 0, "lora_alpha": 1})
        if self.lora_rank and self.train_vision:
            raise ValueError("--train_vision: expected no --lora_rank beside it: a LoRA trains nothing else")
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("--load_in_4bit: expected it or --load_in_8bit, got both")
        if self.bits is not None and not self.lora_rank:
            raise ValueError(
                f"--load_in_{self.bits}bit: expected --lora_rank beside it, as a LoRA alone is trained"
            )
        for name in ("lora_alpha", "lora_dropout"):
            if getattr(self, name) is not None and not self.lora_rank:
                raise ValueError(f"--{name}: expected --lora_rank beside it, got none")
        if self.lora_dropout is not None:
            _check_below_1(self, "lora_dropout")
        # Another text is told now, not after the records were read.
        _ = self.variables, self.pictures

    @property
    def bits(self) -> int | None:
        """Of the model under a LoRA; None where it is not quantised."""
        return 4 if self.load_in_4bit else 8 if self.load_in_8bit else None

    @property
    def variables(self) -> dict[str, Any]:
        """Those of the chat template; ValueError where they are none."""
        return self._object("chat_template_kwargs")

    @property
    def pictures(self) -> dict[str, Any]:
        """The settings of the image processor; ValueError where they are none."""
        return self._object("image_processor_kwargs")

    def _object(self, name: str) -> dict[str, Any]:
        text = getattr(self, name)
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ValueError(f"--{name}: expected a JSON object, got {text!r}")
        return content


def parser_of(*kinds: Any) -> HfArgumentParser:
    """The words of `Options` and of these dataclasses.

    Without TrainingArguments it is there in no time: to import those takes many seconds.
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        [Options, *kinds],
        prog="python -m cotbal.integrations.huggingface.finetune",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--help_all", action="help", help="these words, and those of TrainingArguments")
    return parser


def parse(words: Sequence[str]) -> tuple[Options, TrainingArguments]:
    """What a command line says; the process ends where a word is none of its own.

    Raises:
        ValueError: values that cannot be right.
    """
    from transformers import TrainingArguments

    parser = parser_of(TrainingArguments)
    _check_deepspeed(words)
    # The collator reads the task of each record, and its dialogue.
    parser.set_defaults(remove_unused_columns=False)
    options, args = parser.parse_args_into_dataclasses(list(words))
    _check_least(args, _LEAST)
    for name in ("adam_beta1", "adam_beta2"):
        _check_below_1(args, name)
    if args.max_steps <= 0 and not 0 < args.num_train_epochs < math.inf:
        raise ValueError(
            f"--num_train_epochs: expected a number above 0, or --max_steps, got {args.num_train_epochs:g}: "
            "there would be no training, or no end"
        )
    if not 0 <= args.label_smoothing_factor <= 1:
        raise ValueError(
            f"--label_smoothing_factor: expected a number in 0..1, got {args.label_smoothing_factor}"
        )
    if args.remove_unused_columns:
        raise ValueError("--remove_unused_columns: expected it absent, got True: it takes the records away")
    if getattr(args, "train_sampling_strategy", None) == "batch_rebalance":
        raise ValueError(
            "--train_sampling_strategy: expected random, sequential or group_by_length, got batch_rebalance, "
            "which needs the tokens of all records before the first step"
        )
    if getattr(args, "save_only_model", False):
        raise ValueError(
            "--save_only_model: expected it absent, got True: no training can go on from such a checkpoint"
        )
    for name in ("resume_from_checkpoint", "overwrite_output_dir"):
        if getattr(args, name, None):
            raise ValueError(
                f"--{name}: expected it absent, got {getattr(args, name)}: it goes on from the newest "
                "checkpoint in --output_dir; another folder, or none of them there, begins one"
            )
    _check_together(options, args)
    return options, args


def _check_deepspeed(words: Sequence[str]) -> None:
    """Raises ValueError where it is missing, or would ask MPI which process this is, and there is none."""
    if all(word.partition("=")[0] != "--deepspeed" for word in words):
        return
    if find_spec("deepspeed") is None:
        raise ValueError("--deepspeed: expected the package, got none: pip install deepspeed")
    is_launched = not {"RANK", "OMPI_COMM_WORLD_RANK"}.isdisjoint(os.environ)
    if not is_launched and find_spec("mpi4py") is None:
        raise ValueError(
            "--deepspeed: expected a launcher, also for one GPU, got none: torchrun --nproc-per-node 1 -m "
            "cotbal.integrations.huggingface.finetune ..."
        )


def _check_together(options: Options, args: TrainingArguments) -> None:
    """Raises ValueError for words that lack others, which would end in a traceback behind the model."""
    if args.eval_on_start:
        raise ValueError("--eval_on_start: expected it absent, got True: it has no data to evaluate on")
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise ValueError(
            "--dataloader_persistent_workers: expected --dataloader_num_workers above 0 beside it, got 0"
        )
    if "underflow_overflow" in args.debug and options.level != "logits":
        raise ValueError(
            "--debug: expected --level logits beside underflow_overflow, which looks into lm_head, got "
            f"--level {options.level}"
        )
    if args.gradient_checkpointing:
        _check_checkpointing(args)


def _check_checkpointing(args: TrainingArguments) -> None:
    from torch import zeros
    from torch.utils.checkpoint import checkpoint

    words: Any = args.gradient_checkpointing_kwargs or {}
    if not isinstance(words, dict):
        raise ValueError(f"--gradient_checkpointing_kwargs: expected a JSON object, got {words}")
    # Newer ones take two words of their own.
    own = ("every_n_layers", "offload") if hasattr(args, "activation_checkpointing_kwargs") else ()
    passed = {name: value for name, value in words.items() if name not in own}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint(lambda each: each, zeros(1, requires_grad=True), **passed)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "--gradient_checkpointing_kwargs: expected words of torch.utils.checkpoint.checkpoint, got "
            f"{words}: {error}"
        ) from error


def _check_below_1(given: Any, name: str) -> None:
    if not 0 <= getattr(given, name) < 1:
        raise ValueError(f"--{name}: expected a number of at least 0 and below 1, got {getattr(given, name)}")


def _check_least(given: Any, least: Mapping[str, int]) -> None:
    for name, number in least.items():
        value = getattr(given, name)
        if value is not None and not number <= value < math.inf:
            raise ValueError(f"--{name}: expected at least {number}, got {value}")
