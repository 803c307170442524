"""Evaluation and generation are LLaVA's own while the patch is on, before training and after it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer

from tests.integrations.llava.cases import Case
from tests.integrations.llava.launch import run
from tests.integrations.llava.world import World

# torch's deprecations in the code of LLaVA and transformers, an open file of LLaVA's.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_evaluation_and_generation_are_llavas_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, trained, seen = Trainer.train, {}, []

    def watched_train(trainer: Any, *arguments: Any, **keywords: Any) -> None:
        seen.append(_observe(trainer))
        if trained:
            trainer.model.load_state_dict(trained)
        else:
            train(trainer, *arguments, **keywords)
            trained.update(trainer.model.state_dict())
        seen.append(_observe(trainer))

    monkeypatch.setattr(Trainer, "train", watched_train)
    for case in (Case("patched"), Case("own", weights=None)):
        assert not (error := run(case, world, tmp_path).error), error
    before, after, own_before, own_after = seen
    assert before == own_before
    assert after == own_after
    assert before != after


def _observe(trainer: Any) -> tuple[Any, ...]:
    """The loss of an evaluation, what is generated, and logits, of a model that is not training."""
    loss = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    model, item = trainer.model.eval(), trainer.train_dataset[0]
    inputs = {"input_ids": item["input_ids"][None], "images": item["image"][None]}
    with torch.no_grad():
        logits: Tensor = model(**inputs).logits
        generated = model.generate(
            inputs["input_ids"], images=inputs["images"], max_new_tokens=6, do_sample=False
        )
    return loss, generated.tolist(), logits.flatten().tolist()
