"""From the command line to a training: data, weights and template are checked before any model is loaded."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import create_repo
from transformers import Trainer, TrainingArguments, get_scheduler, set_seed
from transformers.integrations import get_reporting_integration_callbacks, is_deepspeed_zero3_enabled

from cotbal.balancing import Weighting, as_weighting, rule_content
from cotbal.files import check_outputs, json_object, write_json
from cotbal.integrations.checkpoints import newest_checkpoint, stopped, training_state
from cotbal.integrations.dialogues import END_OF_THOUGHT
from cotbal.integrations.huggingface.chat_template import (
    ChatTemplate,
    Kind,
    config_of,
    kind_of,
    load_template,
)
from cotbal.integrations.huggingface.collator import TaskCollator
from cotbal.integrations.huggingface.finetune import SETTINGS_FILE
from cotbal.integrations.huggingface.finetune.collator import AlwaysPictured, DialogueCollator
from cotbal.integrations.huggingface.finetune.model import (
    freeze_vision,
    load_model,
    stops_of,
    with_lora,
)
from cotbal.integrations.huggingface.finetune.options import Options, parse
from cotbal.integrations.huggingface.finetune.records import STAND_IN, Records, check_pictures, read_files
from cotbal.integrations.huggingface.finetune.sampler import FinetuneTrainer, groups_lengths
from cotbal.integrations.huggingface.finetune.trial import check_size, try_records
from cotbal.integrations.telling import data_in_words, refuse
from cotbal.tasks import find_task, read_file_tasks

_GATHERS = "stage3_gather_16bit_weights_on_model_save"
_FILE_TASKS = "file_tasks"
# Of a step: batch size x accumulation x ranks; of a micro-batch: batch size x ranks.
_SIZES = ("records_per_step", "records_per_micro_batch")
# With the seed, the order of the records.
_ORDER = ("data_seed", "train_sampling_strategy", "dataloader_drop_last")
# What is behind their vision tower runs for each picture anew, and ranks have unequal numbers of them.
_RUN_BY_PICTURE = (
    "hunyuan_vl",
    "lfm2_vl",
    "lfm3_vl",
    "minicpm_ocr",
    "minicpmv4_6",
    "minicpmv4_7",
    "paddleocr_vl",
)
# A row may turn out too long for the model or its memory.
_FREE = ("max_length", "level", "attention")
_NUMBERS = (*_SIZES, *_ORDER, *_FREE)
# Records of each kind of length that are made into tokens before the first step.
N_LONGEST = 16


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0 after a training, 1 where it was stopped, 2 where it was given what cannot be right.

    Args:
        words: the command line; None: the process's own.
    """
    # The processes that load pictures are forks of this one.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        options, args = parse(sys.argv[1:] if words is None else words)
        train = prepare(options, args)
    except (ImportError, OSError, TypeError, ValueError) as error:
        return refuse(error)
    return train()


def prepare(options: Options, args: TrainingArguments) -> Callable[[], int]:
    """What trains, goes on from the newest checkpoint, saves the model and returns the exit code.

    Raises:
        ImportError: a package is missing.
        OSError: a file that cannot be read.
        TypeError: a weight or a task of a wrong kind.
        ValueError: weights, records, pictures, a model or settings that cannot be right; an output that
            would take the place of what is read.
    """
    out = Path(args.output_dir)
    outputs = [("--output_dir", out), ("--output_dir", out / SETTINGS_FILE)]
    check_outputs(outputs, [options.model, *options.data, options.weights, options.chat_template])
    set_seed(args.seed)
    _check_engine(options, args)
    _check_packages(args)
    weighting = None if options.weights is None else as_weighting(options.weights)
    given = getattr(weighting, "given", None)
    records = read_files(options.data, read_file_tasks(options.tasks), None if given is None else list(given))
    tasks = tuple(sorted(records.counts)) if given is None else tuple(given)
    is_first = os.environ.get("RANK", "0") == "0"
    if is_first:
        check_pictures(records, Path(options.image_folder))
    config = config_of(options.model)
    kind = kind_of(config)
    template = _template(options, kind)
    _check(options, args, records, config, template)
    settings = _settings(options, args, records, weighting)
    checkpoint = _resumed(args, settings)
    _check_hub(args)
    model = _model(options, args, kind)
    collator = DialogueCollator(
        template,
        Path(options.image_folder),
        stops_of(model, template),
        positions=getattr(config.get_text_config(), "max_position_embeddings", None),
        max_length=options.max_length,
    )
    stands_in = args.world_size > 1 and records.is_mixed
    # What a processor or a length does not take is told now.
    if records.is_mixed and "cross_attention_mask" in collator([{"item": STAND_IN}]):
        raise ValueError(
            f"--data: expected records that all have a picture, or none, as {config.model_type} takes no "
            f"batch of both, got {sum(n > 0 for n, _ in records.lengths)} of {len(records)} with one; train "
            "on each kind alone"
        )
    if is_first:
        print(f"cotbal: {data_in_words(records.counts, tasks, weighting)}", flush=True)
        first = collator.writer.write(records[0]["item"])
        print(f"cotbal: the first record, its answers in [[ ]]: {first.marked()!r}")
        if any(END_OF_THOUGHT in first.text[start:end] for start, end in first.answers):
            print(
                "cotbal: an empty thought is trained before each answer; --chat_template_kwargs "
                "'{\"enable_thinking\": false}' may put it into the prompt instead"
            )
        # One that is too long would end the training where it comes up.
        batch = try_records(collator, records, records.longest(N_LONGEST), args.train_batch_size)
        if options.pictures:
            check_size(model, batch.get("pixel_values"))
    # The Trainer's own would take the place of the task weights.
    smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0
    trainer = FinetuneTrainer(
        model,
        args,
        train_dataset=records,
        data_collator=(AlwaysPictured if stands_in else TaskCollator)(collator, tasks),
        processing_class=template.processor,
        weights=dict.fromkeys(tasks, 1.0) if weighting is None else weighting,
        level=options.level,
        label_smoothing=smoothing,
    )
    return partial(_train, trainer, checkpoint, settings)


def _train(trainer: FinetuneTrainer, checkpoint: str | None, settings: dict[str, Any]) -> int:
    """The exit code, after a training whose model is saved, with what it was begun with beside it."""
    if trainer.is_world_process_zero():
        write_json(Path(trainer.args.output_dir) / SETTINGS_FILE, settings)
        if checkpoint is not None:
            print(f"cotbal: goes on from {checkpoint}", flush=True)
    args = trainer.args
    if checkpoint is not None and 0 < args.max_steps <= training_state(Path(checkpoint))["global_step"]:
        # It was ended while it saved the model: transformers would make one more step.
        args.max_steps, args.num_train_epochs = -1, 0
    trainer.train(resume_from_checkpoint=checkpoint)
    made, planned = trainer.state.global_step, trainer.state.max_steps
    is_whole = made >= planned
    if is_whole:
        _save(trainer)
    elif trainer.is_world_process_zero():
        refuse(stopped(args.output_dir, made, planned))
    # A rank that ended while another still writes would take the connection, and its own exit code, with it.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return 0 if is_whole else 1


def _save(trainer: FinetuneTrainer) -> None:
    if trainer.is_fsdp_enabled:
        # Where checkpoints are sharded, this would write none.
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(Path(trainer.args.output_dir) / "trainer_state.json"))


def _template(options: Options, kind: Kind) -> ChatTemplate:
    return load_template(
        [options.model],
        kind,
        template=_own_template(options),
        system=options.system,
        variables=options.variables,
        newline=options.newline_after_image,
        pictures=options.pictures,
    )


def _own_template(options: Options) -> str | None:
    path = options.chat_template
    return None if path is None else Path(path).read_text(encoding="utf-8-sig")


def _model(options: Options, args: TrainingArguments, kind: Kind) -> Any:
    """The model, with what is not trained frozen."""
    rank = options.lora_rank
    model = load_model(
        options.model,
        kind,
        args,
        dtype=options.dtype,
        attention=options.attention,
        has_lora=rank > 0,
        bits=options.bits,
    )
    if rank:
        alpha = 2 * rank if options.lora_alpha is None else options.lora_alpha
        dropout = 0.05 if options.lora_dropout is None else options.lora_dropout
        # Loading draws other numbers under each engine.
        set_seed(args.seed)
        return with_lora(model, args, rank=rank, alpha=alpha, dropout=dropout)
    if not options.train_vision:
        freeze_vision(model)
    return model


def _check(
    options: Options, args: TrainingArguments, records: Records, config: Any, template: ChatTemplate
) -> None:
    """Raises ValueError where these do not go together."""
    n_batch = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and len(records) < n_batch:
        raise ValueError(
            f"--dataloader_drop_last: expected a whole batch of {n_batch} records, got {len(records)}, of "
            "which no step would be made; leave it out, or use a smaller --per_device_train_batch_size"
        )
    if records.images and not template.sees:
        image, place = next(iter(records.images.items()))
        raise ValueError(
            f"--data: expected no pictures, as {config.model_type} takes text alone, got {image} in "
            f"{records.name(place)}"
        )
    if records.images and config.model_type in _RUN_BY_PICTURE and is_deepspeed_zero3_enabled():
        raise ValueError(
            f"--deepspeed: expected ZeRO-1/2, FSDP or DDP, as {config.model_type} runs its projector for "
            "each picture anew, got ZeRO-3: ranks with more pictures would wait for the others for ever"
        )
    if not template.tokenizer.is_fast:
        raise ValueError(
            f"--model: expected a fast tokenizer, which tells where its tokens stand in the text, got "
            f"{type(template.tokenizer).__name__}"
        )
    if args.gradient_checkpointing:
        # An older default makes no gradient behind a part that needs none. The second name is the newer one.
        for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
            if getattr(args, name, {}) is None:
                setattr(args, name, {"use_reentrant": False})
        # Then transformers looks for none: the projector of text alone, a vision tower's last layers.
        if args.ddp_find_unused_parameters is None and not options.lora_rank:
            args.ddp_find_unused_parameters = True


def _check_engine(options: Options, args: TrainingArguments) -> None:
    """Raises ValueError where what shards the model could not save it, or takes no model of few bits."""
    engine = getattr(args, "hf_deepspeed_config", None)
    is_zero3 = bool(engine and engine.is_zero3())
    if engine and is_zero3 and not engine.get_value(f"zero_optimization.{_GATHERS}"):
        raise ValueError(
            f"--deepspeed: expected {_GATHERS} true under ZeRO-3, or no model would be saved at the end"
        )
    if options.bits is not None and (is_zero3 or args.fsdp):
        raise ValueError(
            f"--load_in_{options.bits}bit: expected DDP or ZeRO-1/2, under which a rank has the whole model, "
            f"got {'ZeRO-3' if is_zero3 else 'FSDP'}; a LoRA without it may be sharded"
        )


def _check_packages(args: TrainingArguments) -> None:
    """Raises ValueError where an optimizer or a tracker lacks its package, or a word of its own."""
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        # These go on to look at the model, which comes later.
        needs_model = any(name in args.optim for name in ("galore", "apollo", "lomo"))
        if not (type(error) is ValueError and needs_model and "optim_target_modules" not in str(error)):
            given = args.optim.value + (f" with --optim_args {args.optim_args}" if args.optim_args else "")
            raise ValueError(
                f"--optim: expected an optimizer that can be made, got {given}: {error}"
            ) from error
    _check_schedule(args)
    for tracker in get_reporting_integration_callbacks(args.report_to):
        try:
            tracker()
        except (ImportError, RuntimeError) as error:
            raise ValueError(
                f"--report_to: expected trackers that are installed, got {tracker.__name__}: {error}"
            ) from error


def _check_schedule(args: TrainingArguments) -> None:
    """Raises ValueError where the learning rate's schedule lacks a word, as min_lr, or has one too many."""
    optimizer, words = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate), args.lr_scheduler_kwargs
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 2, dict(words or {}))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"--lr_scheduler_type: expected it with its own --lr_scheduler_kwargs, got "
            f"{args.lr_scheduler_type.value} with {words}: {error}"
        ) from error


def _check_hub(args: TrainingArguments) -> None:
    """Makes the model's repository, as the Trainer would behind the model; ValueError where that fails."""
    if not args.push_to_hub or args.process_index:
        return
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    try:
        create_repo(name, token=args.hub_token, private=args.hub_private_repo, exist_ok=True)
    except Exception as error:  # by version it is another library's that has no connection
        raise ValueError(
            f"--push_to_hub: expected a repository {name} that can be written, got {type(error).__name__}: "
            f"{error}; log in by `hf auth login`, or leave it out and upload --output_dir after the training"
        ) from error


def _settings(
    options: Options, args: TrainingArguments, records: Records, weighting: Weighting | None
) -> dict[str, Any]:
    """What a training has to have in common with one that it goes on from, for JSON."""
    # Without those that are not given, a later version has more of them and goes on all the same.
    plain = asdict(Options(model="", data=[]))
    settings = {name: value for name, value in asdict(options).items() if value != plain[name]}
    # The pictures may have moved, and a file have another name.
    settings.pop("image_folder", None)
    settings.pop("tasks", None)
    file_tasks = read_file_tasks(options.tasks)
    settings[_FILE_TASKS] = [find_task({}, file=path, file_tasks=file_tasks)[1] for path in options.data]
    settings |= {"data": records.digests, "seed": args.seed, "schema_version": 1}
    # Trainers find the place in the data by the number of steps.
    n_batch = args.train_batch_size * args.world_size
    settings["records_per_step"] = n_batch * args.gradient_accumulation_steps
    order = args.data_seed, getattr(args, "train_sampling_strategy", "random"), args.dataloader_drop_last
    settings |= dict(zip(_ORDER, order, strict=True))
    if groups_lengths(args):
        settings["group_by_length"] = True
    if groups_lengths(args) or args.dataloader_drop_last:
        # Of smaller ones an epoch may have more steps.
        settings["records_per_micro_batch"] = n_batch
    given = getattr(weighting, "given", None)
    rule = rule_content(weighting) if weighting is not None and given is None else None
    weights = None if given is None else dict(given)
    return settings | {"weights": weights or rule, "chat_template": _own_template(options)}


def _resumed(args: TrainingArguments, settings: dict[str, Any]) -> str | None:
    """The checkpoint to go on from; ValueError where it is of a training with other settings."""
    path = Path(args.output_dir) / SETTINGS_FILE
    checkpoint = newest_checkpoint(args.output_dir)
    if checkpoint is not None:
        remedy = "take another --output_dir, or remove its checkpoints"
        begun = json_object(path, "what the training was begun with", remedy) if path.is_file() else {}
        # An earlier version has not told these; it told the files' tasks by names that may have changed.
        begun = {name: settings[name] for name in (*_SIZES, *_ORDER, _FILE_TASKS) if name in settings} | begun
        begun.pop("tasks", None)
        other = sorted(key for key in settings | begun if begun.get(key) != settings.get(key))
        told = [f"{key} ({begun.get(key)}, now {settings.get(key)})" for key in other if key in _NUMBERS]
        if wrong := [key for key in other if key not in _FREE]:
            sizes = f": {', '.join(told)}" if told else ""
            raise ValueError(
                f"--output_dir: expected {args.output_dir} empty, or of a training with the same settings, "
                f"got {checkpoint.name} of one with another {', '.join(wrong)}{sizes}; {remedy}"
            )
        if told and args.process_index == 0:
            print(f"cotbal: {checkpoint.name} was trained with another {', '.join(told)}", flush=True)
    return None if checkpoint is None else str(checkpoint)
