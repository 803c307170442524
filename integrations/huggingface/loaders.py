"""The loaders of a trainer: batches with the ids of their tasks in training, without them elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset

from cotbal.integrations.huggingface.collator import TASK_IDS, TaskCollator, collator_tasks
from cotbal.integrations.huggingface.levels import Installed

# A mixin has no base of its own; a type checker is to see what it is mixed into.
if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


class TaskLoaders(_Base):
    """Makes a trainer's loaders, once its collator is known to number the tasks as the weights do."""

    tasks: tuple[str, ...]
    installed: Installed | None
    data_collator: Any
    _are_stated: bool

    def check_collator(self) -> None:
        """Checks that the collator numbers the tasks as the weights do.

        Raises:
            ValueError: it does not, or nothing says how it does.
        """
        numbered = collator_tasks(self.data_collator)
        if numbered is None and not self._are_stated:
            raise ValueError(
                f"data_collator: expected a TaskCollator, got {type(self.data_collator).__name__}; pass "
                f"TaskCollator(collator, tasks), or where yours makes {TASK_IDS} tasks=[...] in the "
                "order of those ids"
            )
        if numbered is not None and numbered != self.tasks:
            raise ValueError(
                f"tasks: expected the collator's {', '.join(numbered)} in that order, got "
                f"{', '.join(self.tasks)}; pass tasks=collator.tasks, or nothing"
            )

    def get_train_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """The trainer's, after `check_collator`; a constructor of one's own may ask for it before."""
        if self.installed is not None:
            self.check_collator()
        dispatches = self.accelerator.dispatch_batches
        if dispatches is None:
            dispatches = isinstance(self.train_dataset, IterableDataset)
        with self._tensors_alone() if dispatches else nullcontext():
            return super().get_train_dataloader(*args, **kwargs)

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """The trainer's; its batches have no ids, whatever their tasks."""
        with self._tensors_alone(ids=False):
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """The trainer's; its batches have no ids, whatever their tasks."""
        with self._tensors_alone(ids=False):
            return super().get_test_dataloader(*args, **kwargs)

    @contextmanager
    def _tensors_alone(self, *, ids: bool = True) -> Iterator[None]:
        """The loaders made inside get batches without the count of labels, which is a number of the host.

        Where the main process cuts its batches up for the others, they can hold tensors only.
        """
        own = self.data_collator
        if isinstance(own, TaskCollator):
            self.data_collator = copy(own)
            self.data_collator.count_valid, self.data_collator.makes_ids = False, ids
        try:
            yield
        finally:
            self.data_collator = own
