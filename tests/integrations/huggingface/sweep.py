"""Each class of transformers' auto mappings is exact, refused or not built; this module, run, lists them."""

import math
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests.integrations.huggingface.level_runs import Run, run, weighted, whole_error
from tests.integrations.huggingface.tiny_classes import VARIANTS, classes, tiny_model

# Loss and all gradients together, in float32, against Eq. 2 by hand.
BOUND = 1e-5


def outcome(name: str) -> tuple[str, str]:
    """("exact" | "refused" | "not built" | "wrong", what is to be said of it)."""
    try:
        model, batch = _built(name)
        expected = _expected(model, batch)
    except Exception as error:  # a configuration's own check, or an input that is not there
        return (
            "not built",
            f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}",
        )
    said = []
    for level in ("logits", "auto"):
        try:
            torch.manual_seed(0)
            found = run(model, batch, level)
        except Exception as error:
            # A refusal is a sentence on the class; the class's own forward has just run.
            clear = isinstance(error, ValueError) and name in str(error)
            return "refused" if clear else "wrong", f"{type(error).__name__}: {error}"
        off = whole_error(found, expected)
        if not off <= BOUND:
            return "wrong", f"off by {off:.0e} at the {level} level"
        said.append(found.installed.level)
    own = _own_loss(model, batch)
    plain = nn.functional.cross_entropy(
        expected.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    ).item()
    if not math.isclose(own, plain, rel_tol=BOUND):
        return "wrong", f"its own loss is {own}, not the {plain} that was replaced"
    return "exact", said[-1]


def _built(name: str) -> tuple[Any, dict[str, Tensor]]:
    """The class in training mode with a batch that its own forward takes."""
    errors = []
    for variant in VARIANTS:
        try:
            model, batch = tiny_model(name, variant), _batch()
            if "use_cache" in variant:
                batch["use_cache"] = False  # type: ignore[assignment]
            _own_loss(model, batch)
        except MemoryError:
            raise
        except Exception as error:  # whatever a class's own code fails with
            errors.append(error)
        else:
            return model, batch
    raise errors[0]


def _batch() -> dict[str, Tensor]:
    """Two samples, one of them padded, each with a prompt that is no target."""
    ids = torch.randint(3, 250, (2, 12), generator=torch.Generator().manual_seed(1))
    mask, labels = torch.ones_like(ids), ids.clone()
    mask[1, 8:], labels[1, 8:], labels[0, :3], labels[1, :2] = 0, -100, -100, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _own_loss(model: nn.Module, batch: dict[str, Tensor]) -> float:
    torch.manual_seed(0)
    return model(**batch).loss.item()


def _expected(model: nn.Module, batch: dict[str, Tensor]) -> Run:
    torch.manual_seed(0)
    logits = model(**batch).logits
    loss = weighted(logits, batch["labels"])
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return Run(loss.detach(), logits.detach(), gradients, None)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    for name in classes():
        print(f"{name}: {', '.join(outcome(name))}", flush=True)
