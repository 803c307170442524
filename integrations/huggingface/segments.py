"""Whether a model's attention keeps the segments of a packed row apart: asked of the model itself, once.

It depends on the class, on the attention it runs with and on the adapter around it, and none says so. A
class that drops `position_ids` on the way to its masks trains each record on those before it, in silence.
"""

import logging
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from cotbal._draws import devices_of, own_draws
from cotbal.integrations.huggingface.collator import TASK_IDS, VALID_COUNT
from cotbal.integrations.huggingface.packing import IGNORE_INDEX, is_packed

_logger = logging.getLogger(__name__)

# Tokens of each of the two segments that are asked with.
_LENGTH = 4
# Of the largest logit, in units of its dtype's rounding: experts multiply rows in groups that differ.
_ROUNDING = 8


class Segments:
    """Looks at the first packed batch of each layout, and refuses what would train records on each other.

    Args:
        model: what `inner_model` returns.
    """

    def __init__(self, model: nn.Module) -> None:
        self.name, self._model = type(model).__name__, model
        parameters = signature(model.forward).parameters
        takes_more = any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())
        self._takes_use_cache = takes_more or "use_cache" in parameters
        # By layout: whether positions are to be given in four rows.
        self._in_four_rows: dict[tuple[bool, ...], bool] = {}

    def keep_apart(self, forward: Callable[..., Any], batch: MutableMapping[str, Any]) -> None:
        """Gives a packed training batch what attention needs to keep its segments apart: no cache, for one.

        Args:
            forward: the model's call, in its wrappers; at their first packed batch all ranks run it twice, or
                four times.
            batch: changed in place; one that is not packed stays as it is.

        Raises:
            ValueError: the tokens of a segment change the logits of the next.
        """
        if not is_packed(batch):
            return
        if self._takes_use_cache:
            # With one, transformers does not look for segments.
            batch["use_cache"] = False
        if "shift_labels" in batch:
            # A shard of a sequence, whose attention is between ranks.
            return
        positions = batch.get("position_ids")
        in_rows = positions is not None and positions.ndim == 3
        layout = (positions is not None, in_rows, batch.get("cu_seq_lens_q") is not None)
        if layout not in self._in_four_rows:
            probes = _probes(batch)
            if probes is None:
                return
            self._in_four_rows[layout] = self._ask(forward, *probes)
        if positions is not None and self._in_four_rows[layout]:
            batch["position_ids"] = _four_rows(positions)

    def _ask(self, forward: Callable[..., Any], *probes: dict[str, Any]) -> bool:
        """Whether positions are to be given in four rows."""
        try:
            if self._are_apart(forward, *probes):
                return False
        except Exception as error:  # a model's own code may fail with anything
            _logger.warning(
                "%s: whether attention keeps the segments of packed rows apart could not be asked (%s: %s)",
                self.name,
                type(error).__name__,
                error,
            )
            return False
        if self._are_apart_in_four_rows(forward, *probes):
            return True
        raise ValueError(
            f"position_ids: expected {self.name} to keep the segments of a packed row apart, got a second "
            "segment whose logits change with the first: each record would be trained on those before. Pad "
            "the records and give an attention mask instead, or load the model with "
            'attn_implementation="flash_attention_2"; under prefix tuning no class keeps them apart'
        )

    def _are_apart(self, forward: Callable[..., Any], first: dict[str, Any], other: dict[str, Any]) -> bool:
        """Whether two batches that differ in their first segment alone have the same logits in the second."""
        logits = []
        for probe in (first, other):
            # Of a sharded model some parameters may be elsewhere than it computes.
            given = {each.device for each in probe.values() if isinstance(each, Tensor)}
            # The same dropout in both.
            with own_draws(0, devices_of(self._model) | given), torch.no_grad(), _uncompiled():
                outputs = forward(**probe)
            own = (outputs[0] if isinstance(outputs, tuple) else outputs["logits"])[0, -_LENGTH:]
            logits.append(own.full_tensor() if hasattr(own, "full_tensor") else own)
        one, two = logits
        rounding = _ROUNDING * torch.finfo(one.dtype).eps * one.abs().max()
        return bool((one - two).abs().max() <= rounding)

    def _are_apart_in_four_rows(self, forward: Callable[..., Any], *probes: dict[str, Any]) -> bool:
        """The same with positions as Qwen-VL has them: the text's, which tell segments, and three more."""
        positions = probes[0].get("position_ids")
        if positions is None or positions.ndim == 3:
            return False
        first, other = ({**probe, "position_ids": _four_rows(positions)} for probe in probes)
        try:
            return self._are_apart(forward, first, other)
        except Exception:  # most classes have no use for such positions
            return False


def _probes(batch: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Two packed rows of two segments, told as the batch tells its own; None where it has one token alone."""
    key = "input_ids" if batch.get("input_ids") is not None else "inputs_embeds"
    labels = batch["labels"]
    # What is trained on is text, whatever stands for pictures.
    tokens = batch[key][labels != IGNORE_INDEX].unique(dim=0)
    if len(tokens) < 2:
        return None
    one, two = tokens[:1], tokens[-1:]
    second = torch.cat([one, two] * (_LENGTH // 2))
    beside = set(batch) - {key, "labels", TASK_IDS, VALID_COUNT}
    probe = {name: _of_probe(name, batch[name], labels) for name in beside}
    probe = {name: value for name, value in probe.items() if value is not None}
    first, other = (torch.cat([each.repeat_interleave(_LENGTH, 0), second])[None] for each in (one, two))
    return {**probe, key: first}, {**probe, key: other}


def _of_probe(name: str, value: Any, labels: Tensor) -> Any:
    """What the two segments have in the place of a batch's value; None where they need none."""
    if name == "position_ids" and value is not None:
        positions = torch.arange(_LENGTH, device=value.device).repeat(2)[None]
        return _four_rows(positions) if value.ndim == 3 else positions
    if name in ("cu_seq_lens_q", "cu_seq_lens_k") and value is not None:
        return torch.arange(3, device=value.device, dtype=value.dtype) * _LENGTH
    if name in ("max_length_q", "max_length_k"):
        return _LENGTH
    if isinstance(value, Tensor) and value.shape == labels.shape:
        # Such as the types of tokens: that of text.
        return value[labels != IGNORE_INDEX][:1].repeat(2 * _LENGTH)[None]
    return value if name == "use_cache" else None


def _four_rows(positions: Tensor) -> Tensor:
    """(4, B, S) from (B, S): the text's positions, and the same in three directions."""
    return positions[None].expand(4, -1, -1)


def _uncompiled() -> AbstractContextManager[Any]:
    """Without compiling a model for two short rows; older torch cannot, and does."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")
