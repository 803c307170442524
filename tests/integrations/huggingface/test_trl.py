"""TRL's SFTTrainer with the mixin: it trains by Eq. 2 and evaluates as ever."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import PreTrainedTokenizerFast

import cotbal
from cotbal.integrations.huggingface import CoTBalMixin, TaskCollator
from tests.integrations.huggingface.level_cases import FROM_5
from tests.integrations.huggingface.routed import by_hand, cut, routed
from tests.integrations.huggingface.training import (
    TASKS,
    VOCABULARY,
    WEIGHTS,
    InOrder,
    arguments,
    collator,
    deviation,
    expected,
    parameters,
    records,
    tiny_model,
)

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
# TRL's own default is what transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


# The default of TRL 1.6 to 1.14 is another, with a loss of TRL's own.
NLL = {"loss_type": "nll"} if hasattr(trl.SFTConfig, "loss_type") else {}


class SFT(InOrder, CoTBalMixin, trl.SFTTrainer):
    pass


class PlainSFT(InOrder, trl.SFTTrainer):
    pass


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    model = Tokenizer(WordLevel(words, unk_token="</s>"))
    model.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="</s>")


def config(folder: Path, **settings: Any) -> Any:
    own = {"bf16": False, "dataset_num_proc": None, **NLL}
    return arguments(folder, accumulation=2, kind=trl.SFTConfig, **own | settings)


def sft(
    folder: Path,
    cls: type = SFT,
    settings: dict[str, Any] | None = None,
    model: nn.Module | None = None,
    **options: Any,
) -> Any:
    return cls(
        model or tiny_model(),
        config(folder, **settings or {}),
        train_dataset=datasets.Dataset.from_list(records(24)),
        processing_class=tokenizer(),
        **options,
    )


def check(trainer: Any) -> None:
    trainer.train()
    data, model = records(24), tiny_model()
    start = parameters(model)
    windows = [data[:8], data[8:16], data[16:]]
    reference, losses = expected(model, [*windows, *windows[:2]], WEIGHTS)
    assert deviation(parameters(trainer.model), reference, start) <= 1e-5
    pairs = zip(trainer.losses[::2], trainer.losses[1::2], strict=True)
    assert [float(a + b) for a, b in pairs] == pytest.approx(losses, rel=2e-6)


def test_sft_trainer_trains_by_the_whole_steps_loss(tmp_path: Path) -> None:
    check(sft(tmp_path, weights=WEIGHTS, data_collator=collator()))


@pytest.mark.skipif(not FROM_5, reason="the class was run on transformers 5 alone")
def test_sft_trainer_with_routed_experts(tmp_path: Path) -> None:
    """Their auxiliary loss, which TRL switches on, as its mean over the step's micro-batches."""
    model = routed("Qwen3Moe")
    start, data = parameters(model), records(24)
    trainer = sft(tmp_path, model=model, weights=WEIGHTS, data_collator=collator())
    trainer.train()
    windows = cut(data, 4, 2)
    reference, losses, _ = by_hand(routed("Qwen3Moe"), [*windows, *windows[:2]])
    assert deviation(parameters(trainer.model), reference, start) <= 1e-5
    pairs = zip(trainer.losses[::2], trainer.losses[1::2], strict=True)
    assert [float(a + b) for a, b in pairs] == pytest.approx(losses, rel=2e-6)


def test_sft_trainers_own_collator_may_be_wrapped_afterwards(tmp_path: Path) -> None:
    trainer = sft(tmp_path, weights=WEIGHTS, tasks=TASKS)
    trainer.data_collator = TaskCollator(trainer.data_collator, TASKS)
    check(trainer)


def test_a_patched_sft_trainer_keeps_its_own_collator(tmp_path: Path) -> None:
    trainer = sft(tmp_path, PlainSFT)
    own = trainer.data_collator
    with cotbal.patch(trainer, weights=WEIGHTS):
        assert trainer.data_collator.collator is own
        check(trainer)
    assert (type(trainer), trainer.data_collator) == (PlainSFT, own)


@pytest.mark.skipif(
    not hasattr(trl.trainer.sft_trainer, "_patch_chunked_ce_lm_head"), reason="needs TRL 1.6 to 1.14"
)
def test_a_loss_of_trls_inside_the_models_forward_is_told(tmp_path: Path) -> None:
    theirs = {"loss_type": "chunked_nll"}
    with pytest.raises(ValueError, match=r"Pass SFTConfig\(loss_type='nll'\)"):
        sft(tmp_path, settings=theirs, weights=WEIGHTS, data_collator=collator())
    trainer = sft(tmp_path, PlainSFT, theirs)
    with pytest.raises(ValueError, match=r"Pass SFTConfig\(loss_type='nll'\)"):
        cotbal.patch(trainer, weights=WEIGHTS)


class Own(trl.SFTTrainer):
    """Computes its loss from the model's, once a micro-batch."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        self.called = getattr(self, "called", 0) + 1
        return model(**inputs).loss


class OwnSFT(InOrder, CoTBalMixin, Own):
    pass


class PastTheModel(trl.SFTTrainer):
    """Hands on to TRL's own loss."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


class PastTheModelSFT(CoTBalMixin, PastTheModel):
    pass


def test_the_loss_of_an_sft_trainer_of_ones_own_is_called(tmp_path: Path) -> None:
    trainer = sft(tmp_path, OwnSFT, weights=WEIGHTS, data_collator=collator())
    check(trainer)
    assert trainer.called == len(trainer.losses)


def test_one_that_hands_on_to_trls_is_refused(tmp_path: Path) -> None:
    trainer = sft(tmp_path, PastTheModelSFT, weights=WEIGHTS, data_collator=collator())
    # It goes past the model's loss, or, up to TRL 0.25, looks at its logits.
    with pytest.raises((ValueError, RuntimeError), match=r'loss_function|level="logits"'):
        trainer.train()


def test_trls_packing_drops_the_tasks_and_is_refused(tmp_path: Path) -> None:
    packs: dict[str, Any] = {"packing": True, "max_length": 32}
    refused = r"packing: expected False, got True.* SFTConfig\(padding_free=True, max_length=None\)"
    with pytest.raises(ValueError, match=refused):
        sft(tmp_path, settings=packs, weights=WEIGHTS, tasks=TASKS)
    plain = sft(tmp_path, PlainSFT, settings=packs)
    with pytest.raises(ValueError, match=refused):
        cotbal.patch(plain, weights=WEIGHTS)
    packs["dataset_kwargs"] = {"skip_prepare_dataset": True}
    sft(tmp_path, settings=packs, weights=WEIGHTS, tasks=TASKS)


@pytest.mark.full
def test_what_the_refusal_of_packing_names_trains_by_the_whole_steps_loss(tmp_path: Path) -> None:
    pytest.importorskip("transformers", minversion="4.56", reason="attention crosses the segments before")
    trainer = sft(tmp_path, PlainSFT, settings={"padding_free": True, "max_length": None})
    with cotbal.patch(trainer, weights=WEIGHTS):
        check(trainer)


def test_trls_other_loss_is_refused(tmp_path: Path) -> None:
    if "loss_type" not in trl.SFTConfig.__dataclass_fields__:
        pytest.skip("this TRL has one loss")
    # TRL up to 0.25 hands it on as a compute_loss_func.
    refused = r"loss_type: expected 'nll', got 'dft'|compute_loss_func: expected None"
    with pytest.raises(ValueError, match=refused):
        sft(tmp_path, weights=WEIGHTS, data_collator=collator(), settings={"loss_type": "dft"})


def test_sft_trainer_evaluates_as_ever(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(records(10))
    plain = sft(tmp_path, trl.SFTTrainer)
    ours = sft(tmp_path, weights=WEIGHTS, tasks=TASKS)
    ours.data_collator = TaskCollator(ours.data_collator, TASKS)
    theirs, mine = plain.evaluate(data.remove_columns("task")), ours.evaluate(data)
    measured = [key for key in theirs if not key.endswith(("time", "per_second"))]
    assert "eval_loss" in measured
    assert [mine[key] for key in measured] == [theirs[key] for key in measured]
