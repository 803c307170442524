"""What every weighting rule shares: which tasks it weighs, their last losses, its state on disk."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor

from cotbal._float64 import float64_device
from cotbal.balancing._json import from_json, to_json
from cotbal.tasks import task_names, unknown_task
from cotbal.weights import check_float32, checked_weights

W = TypeVar("W", bound="Weighting")
# Nothing beside the other weights, and a float32 all the same.
LEAST = 2.0**-64


class Weighting(ABC):
    """Task weights that are computed once per optimizer step, from the losses of the steps before.

    A trainer calls `bind` when it starts, then in every optimizer step `weights` before the first forward
    pass and `update` after the last one. All state is on the device; only `state_dict` waits for it. In place
    of one without float64 (Apple's MPS) it is the CPU; the weights come on the device all the same.

    A rule of one's own is a `compute`; what it remembers beyond `last_loss` is made in `initial_state` and
    changed in `observe`, and is then saved and restored with the checkpoint. Weights that follow each
    task's running mean loss:

        >>> class RunningLoss(Weighting):
        ...     def initial_state(self, n_tasks):
        ...         return {"mean": torch.ones(n_tasks, dtype=torch.float64)}
        ...     def observe(self, loss, present):
        ...         mean = self.state["mean"]
        ...         self.state["mean"] = torch.where(present, 0.9 * mean + 0.1 * loss, mean)
        ...     def compute(self, counts):
        ...         return self.state["mean"] / self.state["mean"].mean()
        >>> rule = RunningLoss(fixed={"chat": 1.0}).bind(["VQA", "caption", "chat"])
        >>> rule.update(torch.tensor([60.0, 10.0, 9.0]), torch.tensor([20, 10, 3]))
        >>> rule.weights(torch.tensor([20, 0, 4]))
        tensor([1.0909, 0.9091, 1.0000])

    Args:
        fixed: tasks that keep the stated weight. The rule neither sees nor counts them: with N other tasks
            its weights average 1, which is what a fixed weight is to be compared with.
        options: the rule's own numbers, kept in `self.options`; a state saved under others is refused, and a
            value that cannot be saved at once.

    Attributes:
        step: the number of updates so far, so the index from 0 of the step whose weights come next.
        tasks: the names in the order of their ids, () before `bind`.
        state: (N, ...) tensors by name, of the tasks that are not fixed.
        least: what a lower weight of `compute` becomes, which is to be finite and >= 0 in any case. A rule
            that follows the losses sets its class's to `cotbal.balancing.base.LEAST`, 2^-64: tokens of weight
            0 are not read, so that it would see that task's loss of then for ever. By default it is 0, and a
            rule may leave a task out.
    """

    least: float = 0.0

    def __init__(self, *, fixed: Mapping[str, float] | None = None, **options: float) -> None:
        self.fixed = checked_weights(fixed, "fixed") if fixed else {}
        check_float32(self.fixed, "fixed")
        # Now, and not at the first checkpoint.
        to_json(options, f"{type(self).__name__}: options")
        self.options = options
        self.step = 0
        self.tasks: tuple[str, ...] = ()
        self.state: dict[str, Tensor] = {}

    @abstractmethod
    def compute(self, counts: Tensor) -> Tensor:
        """The weights (N,) of the coming step, of the tasks that are not fixed.

        Args:
            counts: (N,) the tokens that each task has in the whole step, over all ranks.
        """

    def initial_state(self, n_tasks: int) -> dict[str, Tensor]:
        """The tensors that the rule remembers of N = `n_tasks` tasks that are not fixed; none by default.

        By any names but "last_loss" and "seen", which every rule has.
        """
        return {}

    def observe(self, loss: Tensor, present: Tensor) -> None:  # noqa: B027, a rule may need last_loss alone
        """Takes in step number `self.step`; does nothing by default.

        Args:
            loss: (N,) float64, each task's mean loss; its last one where it was absent, and the mean of the
                others' for a task never seen (`self.state["seen"]`): no weight starts from a loss of 0.
            present: (N,) bool, whether the task was in the step.
        """

    @property
    def last_loss(self) -> Tensor:
        """(N,) float64, the `loss` of `observe` as of the last step; 1 where no task was ever seen."""
        last, seen = self.state["last_loss"], self.state["seen"]
        others = torch.where(seen, last, 0.0).sum() / seen.sum().clamp(min=1)
        return torch.where(seen, last, torch.where(seen.any(), others, 1.0))

    def bind(self: W, tasks: Iterable[str], device: torch.device | str = "cpu") -> W:
        """Starts the rule afresh for these tasks, in the order of their ids. Returns the rule.

        Raises:
            ValueError: a fixed task that is not among them, or `initial_state` returned something else than
                tensors by names of their own.
        """
        names = task_names(tasks)
        for name in self.fixed:
            if name not in names:
                raise ValueError(f"fixed: expected a task of the data, got {unknown_task(name, names)}")
        free = [index for index, name in enumerate(names) if name not in self.fixed]
        self.step, self.tasks = 0, names
        self.device, self._asked_on = float64_device(device), torch.device(device)
        base = {
            "last_loss": torch.zeros(len(free), dtype=torch.float64),
            "seen": torch.zeros(len(free), dtype=torch.bool),
        }
        own = self.initial_state(len(free))
        for name, value in own.items():
            if name in base or not isinstance(value, Tensor):
                came = "the name" if name in base else f"{type(value).__name__} for"
                raise ValueError(
                    f"{self._rule}.initial_state: expected tensors by names other than {' and '.join(base)}, "
                    f"which every rule has, got {came} {name!r}"
                )
        self.state = {name: tensor.to(self.device) for name, tensor in (base | own).items()}
        self._kinds = _kinds(self.state)
        # Indices, not a mask: indexing by a mask would wait for the device.
        self._free = torch.tensor(free, dtype=torch.int64, device=self.device)
        stated = [self.fixed.get(name, 1.0) for name in names]
        self._stated = torch.tensor(stated, dtype=torch.float32, device=self.device)
        return self

    def weights(self, counts: Tensor) -> Tensor:
        """The weights (N,) fp32 of the coming step, fixed tasks included. Call it once per optimizer step.

        Args:
            counts: (N,) the tokens that each task has in the whole step, over all ranks.

        Raises:
            ValueError: the rule is not bound, not one count per task, or `compute` returned something else
                than one finite weight >= 0 per task that is not fixed (on CUDA an assertion is queued).
        """
        counts = self._per_task(counts, "counts")
        free = self.compute(counts[self._free])
        if not isinstance(free, Tensor) or free.shape != self._free.shape:
            came = tuple(free.shape) if isinstance(free, Tensor) else type(free).__name__
            raise ValueError(
                f"{self._rule}.compute: expected a tensor of the shape {tuple(self._free.shape)}, a weight "
                f"for each task in the order of `counts`, in which fixed ones do not stand, got {came}"
            )
        free = self._checked_weights(free.to(torch.float32)).clamp(min=self.least)
        return self._stated.index_copy(0, self._free, free).to(self._asked_on)

    def update(self, loss_sum: Tensor, token_count: Tensor) -> None:
        """Takes in the sums of a finished optimizer step, over all its micro-batches and ranks.

        A task without a token was absent. So was one whose sum is not finite: an fp16 gradient scaler skips
        the step that gave it.

        Args:
            loss_sum: (N,) sum of the unweighted losses of each task's tokens.
            token_count: (N,) the number of those tokens.

        Raises:
            ValueError: the rule is not bound, not one sum and one count per task, or `observe` made other
                tensors of the state than those of `initial_state`.
        """
        loss_sum = self._per_task(loss_sum, "loss_sum")[self._free].to(torch.float64)
        counts = self._per_task(token_count, "token_count")[self._free]
        present = (counts > 0) & loss_sum.isfinite()
        loss = torch.where(present, loss_sum / counts.clamp(min=1), self.state["last_loss"])
        self.state["last_loss"], self.state["seen"] = loss, self.state["seen"] | present
        self.observe(self.last_loss, present)
        # Now, and not where a run would go on from its checkpoint.
        if (kinds := _kinds(self.state)) != self._kinds:
            raise ValueError(
                f"{self._rule}.observe: expected it to keep the tensors of initial_state, {self._kinds}, got "
                f"{kinds}, with which no run could be resumed; make them so in initial_state"
            )
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        """The whole state as JSON values (`json.dumps` takes it); this reads the device.

        Raises:
            ValueError: the rule is not bound.
        """
        return self.identity() | {"step": self.step} | to_json({"state": self.state}, self._rule)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned, bit for bit. Call `bind` before.

        Raises:
            ValueError: the rule is not bound, or the state is that of another rule, of other options, other
                tasks or other fixed weights.
        """
        for key, expected in self.identity().items():
            if saved.get(key) != expected:
                asked, got = _unlike(expected, saved.get(key))
                raise ValueError(
                    f"state: expected a state whose {key!r} is {asked!r}, got {got!r}; "
                    "resume with the weighting of the checkpoint, or start a new run"
                )
        state = from_json(saved["state"], self.device)
        if _kinds(state) != self._kinds:
            raise ValueError(f"state: expected the tensors {self._kinds}, got {_kinds(state)}")
        self.step, self.state = int(saved["step"]), state

    def identity(self) -> dict[str, Any]:
        """The rule, its tasks, fixed weights and options: what a state fits, and every rank must share.

        Raises:
            ValueError: the rule is not bound.
        """
        self._check_bound()
        tasks, fixed = list(self.tasks), dict(self.fixed)
        # As they come back from a file: a tuple is a list there.
        options = to_json(self.options, self._rule)
        return {"rule": self._rule, "tasks": tasks, "fixed": fixed, "options": options}

    @property
    def _rule(self) -> str:
        return type(self).__name__

    def _checked_weights(self, free: Tensor) -> Tensor:
        # Before one below 0 is raised to `least`.
        is_right = (free.isfinite() & (free >= 0)).all()
        expected = f"{self._rule}.compute: expected finite weights >= 0"
        if free.device.type != "cpu":
            torch._assert_async(is_right, expected)
        elif not is_right:
            raise ValueError(
                f"{expected}, got {free.tolist()} in step {self.step}: a task of a weight below 0 would be "
                "trained no more; let compute return others (.clamp(min=0) where it is meant to be left out)"
            )
        return free

    def _check_bound(self) -> None:
        if not self.tasks:
            raise ValueError(f"{self._rule}: it has no tasks yet; call bind(tasks, device) first")

    def _per_task(self, values: Tensor, parameter: str) -> Tensor:
        self._check_bound()
        if values.shape != (len(self.tasks),):
            raise ValueError(
                f"{parameter}: expected one value for each of the {len(self.tasks)} tasks, "
                f"got shape {tuple(values.shape)}"
            )
        # To the CPU it would be read before it has come.
        return values.detach().to(self.device, non_blocking=self.device.type != "cpu")


def _kinds(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in state.items()}


def _unlike(expected: Any, got: Any) -> tuple[Any, Any]:
    """Two mappings without what they share: of many tasks only those whose weight has changed."""
    if not (isinstance(expected, Mapping) and isinstance(got, Mapping)):
        return expected, got
    shared = [key for key in expected if key in got and expected[key] == got[key]]
    without = [{key: value for key, value in each.items() if key not in shared} for each in (expected, got)]
    return without[0], without[1]


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number, numpy's included, and no text from a file."""
    return isinstance(value, Real)


def is_whole(value: object) -> bool:
    """Whether it is a whole number, be it written as 25.0."""
    return is_number(value) and float(value).is_integer()


def ratio(value: Tensor, base: Tensor, known: Tensor) -> Tensor:
    """`value / base` (N,), and 1 where the base is not known or 0: never NaN, never infinite."""
    known = known & (base > 0)
    return torch.where(known, value / torch.where(known, base, 1.0), 1.0)
