"""The loss of Eq. 2 over each micro-batch of one model, for training loops that know nothing of it."""

import inspect
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cotbal.balancing import Weighting
from cotbal.integrations.huggingface.collator import TASK_IDS, VALID_COUNT
from cotbal.integrations.huggingface.heads import inner_model
from cotbal.integrations.huggingface.levels import install_loss
from cotbal.integrations.huggingface.loss_position import named_like
from cotbal.integrations.huggingface.packing import batch_targets
from cotbal.integrations.huggingface.segments import Segments
from cotbal.normalizer import loss_factor
from cotbal.step_balance import StepBalance
from cotbal.step_loss import StepLoss


class _Unscaled(StepLoss):
    """A `StepLoss` that checks the precision where it is computed.

    accelerate's autocast may lie between a model and the loss that was put into it afterwards.
    """

    def __init__(self, n_tasks: int, check: Callable[[], None]) -> None:
        super().__init__(n_tasks)
        self._check = check

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        # A compiled model was asked before it; within, autocast is part of its graph.
        if not torch.compiler.is_compiling():
            self._check()
        return super()._constants(device)


class ModelLoss:
    """The balanced loss in a model's own call: `model(**batch).loss`, with `cotbal_task_ids` in the batch.

    It is there in training mode where the batch has labels. In evaluation mode the loss is the model's own.

    Args:
        model: a transformers model, PEFT's of one, in `torch.compile` or DDP.
        tasks: task names in the order of their ids.
        weighting: constant weights.
        level: as in `install_loss`.
        denominator: "world" counts a micro-batch on all ranks, by one all-reduce in the forward pass that
            every rank must reach, and undoes DDP's averaging; "micro" counts it on this device.

    Attributes:
        installed: the level of the loss, and why.
        balance: the weights, the denominator of each micro-batch, and the sums per task.

    Raises:
        TypeError: not a transformers model.
        ValueError: what `install_loss` refuses, or a task without a weight; in training a batch without ids,
            of the stock Trainer, or in float16, or "world" within torch's `Join`.
    """

    def __init__(
        self, model: nn.Module, tasks: Iterable[str], weighting: Weighting, level: str, denominator: str
    ) -> None:
        self.model, self.denominator = inner_model(model), denominator
        self.name = type(self.model).__name__
        names = tuple(tasks)
        self.balance = StepBalance(
            names,
            weighting,
            _Unscaled(len(names), self._check_precision),
            replicas=getattr(self.model, "_tp_size", None) or 1,
            per_device=denominator == "micro",
        )
        self.installed = install_loss(model, self.balance.step_loss, level)
        self._segments = Segments(self.model)
        self._is_on, self._own = True, vars(self.model).get("forward")
        # A bound method: a deep copy of the model runs with its own parameters.
        self._ours = MethodType(self._wrap(self.model.forward), self.model)
        self.model.forward = self._ours

    def restore(self) -> None:
        """Gives the model its own forward and loss back; what wraps ours by then passes through it."""
        self._is_on = False
        if vars(self.model).get("forward") is self._ours:
            self.model.forward = self._own
        self.installed.restore()

    def _wrap(self, current: Callable[..., Any]) -> Callable[..., Any]:
        own, names = getattr(current, "__func__", None), [*inspect.signature(current).parameters]

        @named_like(current)
        def forward(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            run = current if own is None else MethodType(own, model)
            if not self._is_on:
                return run(*args, **kwargs)
            batch = dict(zip(names, args, strict=False)) | kwargs
            if not self._is_trained_on(model, batch):
                batch.pop(TASK_IDS, None)
                batch.pop(VALID_COUNT, None)
                return run(**batch)
            self._begin(run, batch)
            with self.balance.step_loss.micro_batch(batch.pop(TASK_IDS), batch.pop(VALID_COUNT, None)):
                return run(**batch)

        return forward

    def _is_trained_on(self, model: nn.Module, batch: dict[str, Any]) -> bool:
        means_to_train = batch.get(TASK_IDS) is not None and torch.is_grad_enabled()
        if batch.get("labels") is None and batch.get("shift_labels") is None:
            if means_to_train and model.training:
                raise ValueError(
                    f"labels: expected them in a training batch of {self.name} with {TASK_IDS}, got none; a "
                    "loss computed outside the model bypasses the task weights. Put labels into the batch, "
                    "or call cotbal.gtw_cross_entropy on the logits of a model that is not patched"
                )
            return False
        if not model.training and means_to_train:
            raise ValueError(
                f"model: expected {self.name} in training mode for a batch with {TASK_IDS} and gradients, "
                "got it in evaluation mode, as from_pretrained returns it; call model.train() to train, or "
                "evaluate under torch.no_grad()"
            )
        return model.training

    def _check_precision(self) -> None:
        kind = self.model.device.type
        is_cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16
        if is_cast or self.model.dtype is torch.float16:
            raise ValueError(
                f"model: expected {self.name} to compute in bfloat16 or float32, got float16: gradients are "
                "formed in the forward pass, before a GradScaler that the model does not see, and would be "
                "rounded to 0. Use bfloat16, or CoTBalTrainer, which knows the scale"
            )

    # A compiled model would trace the counting anew for each length; what follows is traced as ever.
    @torch.compiler.disable
    def _begin(self, run: Callable[..., Any], batch: dict[str, Any]) -> None:
        """Counts the micro-batch and sets its weights and denominator."""
        if batch.get("num_items_in_batch") is not None:
            raise ValueError(
                f"num_items_in_batch: expected none in a batch of the patched {self.name}, got one: the "
                "Trainer that passes it would scale the loss once more. Patch the Trainer instead: "
                "cotbal.patch(trainer)"
            )
        self._check_precision()
        if batch.get("shift_labels") is None:
            batch.pop("shift_labels", None)
        targets = batch_targets(batch)
        self._segments.keep_apart(run, batch)
        balance = self.balance
        if balance.device != targets.labels.device:
            # The model has moved since it was patched.
            balance.device = targets.labels.device
            balance.start()
        balance.normalizer.add(targets.labels, targets.task_ids, shift=targets.shift)
        is_world = self.denominator == "world" and dist.is_available() and dist.is_initialized()
        if is_world and _joins():
            raise ValueError(
                "denominator: expected 'micro' within torch's Join, accelerate's join_uneven_inputs, got "
                "'world': a rank whose data has ended would take no part in its all-reduce. Give every rank "
                "as many batches (even_batches=True, drop_last=True) and leave Join out, or take 'micro'"
            )
        ranks = dist.get_world_size() if is_world else 1
        replicas = balance.replicas if is_world else 1
        balance.begin_step(loss_factor("torch", ranks=ranks, replicas=replicas))


def _joins() -> bool:
    """Whether DDP, whose forward this is in, makes the collectives of ranks whose data has ended."""
    ddp = getattr(DistributedDataParallel, "_active_ddp_module", None)
    return bool(getattr(getattr(ddp, "_join_config", None), "enable", False))
