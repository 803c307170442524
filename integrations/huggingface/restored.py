"""A checkpoint's weights under the names that they have in it.

transformers writes some models (LLaVA, Qwen2.5-VL) under other names than their parameters have, and only
`from_pretrained` translates them back. Its Trainer loads such a checkpoint by the parameters' names: it finds
none, warns, and goes on from the weights that the model had.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

# A mixin has no base of its own; a type checker is to see what it is mixed into.
if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object
# Its new name is an unknown one to transformers before 4.56.
_OLD = tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 56)
DTYPE = "torch_dtype" if _OLD else "dtype"


class RestoredWeights(_Base):
    """Makes a trainer load every weight of a checkpoint, or none."""

    _missed: tuple[str, ...] = ()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._missed = ()
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._missed:
            restore(self.model if model is None else model, resume_from_checkpoint, self._missed)

    def _load_best_model(self) -> None:
        self._missed = ()
        super()._load_best_model()
        if self._missed:
            restore(self.model, self.state.best_model_checkpoint, self._missed)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        self._missed = not_loaded(self.model, load_result.missing_keys)
        if not self._missed:
            super()._issue_warnings_after_load(load_result)


def not_loaded(model: nn.Module, missing: Iterable[str]) -> tuple[str, ...]:
    """Those of the missing names that are saved and were not loaded under another name, as tied ones are."""
    unsaved = getattr(model, "_keys_to_ignore_on_save", None) or ()
    tensors, missing = model.state_dict(keep_vars=True), set(missing).difference(unsaved)
    loaded = {id(tensor) for name, tensor in tensors.items() if name not in missing}
    return tuple(name for name, tensor in tensors.items() if name in missing and id(tensor) not in loaded)


def restore(model: nn.Module, folder: str, missed: Iterable[str] | None = None) -> None:
    """Loads the weights of a checkpoint into `model` as `from_pretrained` reads them.

    Args:
        model: the model; it is another one for a moment, on the CPU.
        folder: the checkpoint's.
        missed: the names that have to be among them; None: all. Parts of one's own, which the class does not
            have, are loaded by their names already.

    Raises:
        ValueError: some of its weights are not there under any name.
    """
    if not isinstance(model, PreTrainedModel):
        raise ValueError(_lacks(model, folder, "names that only a class of transformers could translate"))
    dtypes = {parameter.dtype for parameter in model.parameters()}
    # One that holds all the others' values.
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    options = {DTYPE: dtype, "config": deepcopy(model.config), "output_loading_info": True}
    saved, told = type(model).from_pretrained(folder, **options)
    tensors = saved.state_dict()
    missed = set(model.state_dict() if missed is None else missed)
    lacking = not_loaded(saved, told["missing_keys"]) or not_loaded(model, missed.difference(tensors))
    if lacking or told["mismatched_keys"]:
        raise ValueError(_lacks(model, folder, f"none for {len(lacking)}, {', '.join(lacking[:3])}"))
    model.load_state_dict(tensors, strict=False)


def _lacks(model: nn.Module, folder: str, got: str) -> str:
    return (
        f"{folder}: expected the weights of all parameters of {type(model).__name__}, got {got}; the "
        "model is that of another checkpoint, or the checkpoint is not whole"
    )
