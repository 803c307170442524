"""Batches of dialogues as a chat model's own template writes them, the answers as labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cotbal.integrations.huggingface.chat_template import ChatTemplate
from cotbal.integrations.huggingface.collator import TaskCollator
from cotbal.integrations.huggingface.finetune.records import STAND_IN, Item, pictures_of
from cotbal.integrations.huggingface.finetune.writing import DialogueWriter, Written
from cotbal.integrations.huggingface.packing import IGNORE_INDEX


class _Block(NamedTuple):
    """Tokens of a text without a picture among them.

    Attributes:
        ids: from the words that ask for the first answer to the end of the last; behind the last picture from
            the first answer itself to the end of the text, (S,).
        labels: those of them that are trained on, else -100, (S,).
    """

    ids: Tensor
    labels: Tensor


class DialogueCollator:
    """Makes a batch of `{"item": Item}` records: what the processor makes, and `labels` (B, S) int64.

    Args:
        template: of the model.
        folder: of the pictures.
        stops: as of `DialogueWriter`.
        positions: the most tokens of a row; None: any number.
        max_length: rows are cut off there, on the right.
    """

    def __init__(
        self,
        template: ChatTemplate,
        folder: Path,
        stops: Sequence[str],
        *,
        positions: int | None = None,
        max_length: int | None = None,
    ) -> None:
        self.template, self.folder = template, folder
        self.positions, self.max_length = positions, max_length
        self.writer = DialogueWriter(template, stops)

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch.

        Raises:
            ValueError: a record that the template or the processor cannot write so, that is too long, or
                whose picture's file is none; the record is named.
        """
        items: list[Item] = [record["item"] for record in records]
        texts = [self.writer.write(item) for item in items]
        batch: dict[str, Tensor] = {}
        ids: list[Tensor] = [torch.empty(0)] * len(items)
        parts = []
        for is_pictured in (True, False):
            rows = [n for n, item in enumerate(items) if bool(item.dialogue.images) == is_pictured]
            if not rows:
                continue
            inputs = self._processed([items[n] for n in rows], [texts[n].text for n in rows])
            for row, values, mask in zip(rows, inputs["input_ids"], inputs["attention_mask"], strict=True):
                ids[row] = values[mask.bool()]
            parts.append((rows, inputs))
        labels = [
            self._labels(item, written, row) for item, written, row in zip(items, texts, ids, strict=True)
        ]
        longest = max(map(len, labels))
        batch = _joined(parts, len(items), longest, self.template.tokenizer.pad_token_id)
        batch["labels"] = torch.full((len(items), longest), IGNORE_INDEX)
        for row, values in enumerate(labels):
            batch["labels"][row, : len(values)] = values
        return batch

    def _processed(self, items: Sequence[Item], texts: list[str]) -> dict[str, Tensor]:
        """The processor's tensors of records that all have pictures, or all have none."""
        pictures = [pictures_of(item, self.folder) for item in items]
        given: dict[str, Any] = {"images": pictures} if any(pictures) else {}
        inputs = self.template.processor(
            text=texts,
            padding=True,
            padding_side="right",
            return_tensors="pt",
            add_special_tokens=not self.template.begins(texts[0]),
            **given,
        )
        return dict(inputs)

    def _labels(self, item: Item, written: Written, ids: Tensor) -> Tensor:
        """The labels of a row of ids, cut to the greatest length."""
        labels, blocks = torch.full_like(ids, IGNORE_INDEX), self._blocks(written)
        places = self._places(item, ids, [block.ids for block in blocks])
        for place, block in zip(places, blocks, strict=True):
            labels[place : place + len(block.ids)] = block.labels
        first = int((labels != IGNORE_INDEX).nonzero()[0])
        labels = labels[: self.max_length]
        if self.positions is not None and len(labels) > self.positions:
            raise ValueError(
                f"{item.name}: expected at most {self.positions} tokens, which are the model's positions, "
                f"got {len(labels)}; --max_length {self.positions} cuts longer ones off"
            )
        if not (labels != IGNORE_INDEX).any():
            raise ValueError(
                f"{item.name}: expected an answer within {self.max_length} tokens, got none: its first "
                f"begins after {first}; raise --max_length. `cotbal data check` finds "
                "all such records beforehand"
            )
        if len(places) > 1 and len(labels) < places[-1]:
            raise ValueError(
                f"{item.name}: expected its pictures within {self.max_length} tokens, got the answer behind "
                f"the last of them after {places[-1]}; raise --max_length"
            )
        return torch.full_like(labels, IGNORE_INDEX) if item.stands_in else labels

    def _places(self, item: Item, ids: Tensor, blocks: list[Tensor]) -> list[int]:
        """Where the blocks stand one behind the other, the last one at the end."""
        # Most rows have one block, and are spared the search.
        last = max(0, len(ids) - len(blocks[-1]))
        found = [*(_matches(ids, block) for block in blocks[:-1])]
        found.append([last + place for place in _matches(ids[last:], blocks[-1])])
        earliest: list[int] = []
        latest: list[int] = []
        end, start = 0, len(ids)
        for block, places in zip(blocks, found, strict=True):
            earliest += [place for place in places if place >= end][:1]
            end = earliest[-1] + len(block) if earliest else 0
        for block, places in zip(reversed(blocks), reversed(found), strict=True):
            latest += [place for place in places if place + len(block) <= start][-1:]
            start = latest[-1] if latest else 0
        if not len(earliest) == len(latest) == len(blocks):
            raise ValueError(
                f"{item.name}: expected the processor's tokens to end as the tokenizer's do from the first "
                f"answer on, pictures aside, got others; {type(self.template.processor).__name__} cannot be "
                "trained with so"
            )
        if earliest != latest[::-1]:
            raise ValueError(
                f"{item.name}: expected questions without what the template puts around an answer, got one "
                "that has an answer's very words so, which could be either; write it otherwise"
            )
        return earliest

    def _blocks(self, written: Written) -> list[_Block]:
        tokens = self.template.tokenizer(
            written.text,
            add_special_tokens=not self.template.begins(written.text),
            return_offsets_mapping=True,
        )
        ids, places = torch.tensor(tokens["input_ids"]), torch.tensor(tokens["offset_mapping"])
        ends = [*(number for number, _ in written.blocks[1:]), len(written.answers)]
        blocks = []
        for (number, begin), end in zip(written.blocks, ends, strict=True):
            is_label = torch.zeros(len(ids), dtype=torch.bool)
            for start, stop in written.answers[number:end]:
                is_label |= (places[:, 0] < stop) & (places[:, 1] > start)
            own = is_label.nonzero()[:, 0]
            if end == len(written.answers):
                cut = slice(int(own[0]), None)
            else:
                cut = slice(int((places[:, 1] > begin).nonzero()[0]), int(own[-1]) + 1)
            blocks.append(_Block(ids[cut], ids.masked_fill(~is_label, IGNORE_INDEX)[cut]))
        return blocks


def _matches(ids: Tensor, block: Tensor) -> list[int]:
    """Where the block stands in the ids."""
    if len(block) > len(ids):
        return []
    found: list[int] = (ids.unfold(0, len(block), 1) == block).all(1).nonzero()[:, 0].tolist()
    return found


class AlwaysPictured(TaskCollator):
    """A `TaskCollator` of records whose every batch has a picture.

    One whose records have none gets a row with a blank picture and no label, which is in no sum. So all
    ranks run the same modules: ZeRO-1/2 and DDP would wait for the gradients of those that one rank has not
    run, or add them to others, ZeRO-3 and FSDP for their parameters.
    """

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch; raises as `TaskCollator` does."""
        if not any(record["item"].dialogue.images for record in features):
            features = [*features, {**features[0], "item": STAND_IN}]
        return super().__call__(features)


def _joined(
    parts: Sequence[tuple[list[int], Mapping[str, Tensor]]], n_rows: int, length: int, pad: int
) -> dict[str, Tensor]:
    """One batch of what the processor made of some rows each.

    Args:
        parts: the rows, and their tensors; those of the pictures are in one part alone.
        n_rows: of the batch, B.
        length: of its rows, S; longer ones are cut off.
        pad: the id that fills shorter ones up.
    """
    batch: dict[str, Tensor] = {}
    for rows, inputs in parts:
        shape = inputs["input_ids"].shape
        for name, value in inputs.items():
            # What has a number for each token; the rest is of the pictures, which are in the rows' order.
            if not isinstance(value, Tensor) or value.shape[:2] != shape or value.is_floating_point():
                batch[name] = value
                continue
            if name not in batch:
                fill = pad if name == "input_ids" else 0
                batch[name] = value.new_full((n_rows, length, *value.shape[2:]), fill)
            cut = value[:, :length]
            batch[name][torch.tensor(rows), : cut.shape[1]] = cut
    return batch
