"""The lengths that `cotbal data check` tells are those of LLaVA's own preprocessing."""

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
from llava import conversation
from llava.train.train import preprocess, preprocess_multimodal
from transformers import LlamaTokenizer

from cotbal.data.check.lengths import Length, in_tokens
from cotbal.data.tokens import load_counter
from tests.integrations.llava.records import texts
from tests.integrations.llava.world import World, make_tokenizer

IMAGE_TOKENS = 9
LONG = 4096
EXTRA: list[dict[str, Any]] = [
    # The picture behind the question, and in the second one.
    {"image": "0.png", "conversations": [("human", "Which colour?\n<image>"), ("gpt", "red")]},
    {
        "image": "0.png",
        "conversations": [
            ("human", "Hello!"),
            ("gpt", "Yes."),
            ("human", "<image>\nWhich shape?"),
            ("gpt", "a stripe"),
        ],
    },
]


@pytest.fixture(scope="module")
def records(world: World) -> list[dict[str, Any]]:
    made = [
        each | {"conversations": [{"from": who, "value": text} for who, text in each["conversations"]]}
        for each in EXTRA
    ]
    return json.loads(world.data.read_text()) + made


@pytest.fixture(scope="module")
def tokenizer(records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> LlamaTokenizer:
    """With the rules of Llama's own: text is taken as it stands, spaces and line ends too."""
    folder = tmp_path_factory.mktemp("tokenizer")
    rules = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    make_tokenizer(folder, texts(records), 400, **rules).save_pretrained(folder)
    made = LlamaTokenizer.from_pretrained(folder, model_max_length=LONG)
    made.pad_token = made.unk_token
    return made


def test_positions_and_trained_tokens_are_those_of_llava(
    records: list[dict[str, Any]], tokenizer: LlamaTokenizer
) -> None:
    counter = load_counter(tokenizer.name_or_path)
    cut = 0
    for record in records:
        labels = _labels(record, tokenizer)
        # Whole, inside the first answer or at its end, and short of the last answer's end.
        for most in (LONG, next(n for n, label in enumerate(labels) if label != -100) + 1, len(labels) - 2):
            kept = labels[:most]
            expected = Length(len(labels), _trained(labels), len(kept), _trained(kept))
            turns = [turn["value"] for turn in record["conversations"]]
            pairs = list(zip(turns[::2], turns[1::2], strict=True))
            assert in_tokens(pairs, "image" in record, counter, most, IMAGE_TOKENS) == expected, record
            cut += most < LONG and 0 < expected.kept_valid < expected.valid
    assert cut > len(records)


def _trained(labels: list[int]) -> int:
    return sum(label != -100 for label in labels)


def _labels(record: dict[str, Any], tokenizer: LlamaTokenizer) -> list[int]:
    """LLaVA's labels, the picture's positions put in."""
    turns = copy.deepcopy(record["conversations"])
    pictured = "image" in record
    before, conversation.default_conversation = (
        conversation.default_conversation,
        conversation.conv_templates["vicuna_v1"],
    )
    try:
        if pictured:
            options = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=False)
            preprocess_multimodal([turns], options)
        made = preprocess([turns], tokenizer, has_image=pictured)
    finally:
        conversation.default_conversation = before
    ids, labels = made["input_ids"][0].tolist(), made["labels"][0].tolist()
    assert any(label != -100 for label in labels), "LLaVA ignored it"
    if not pictured:
        return labels
    place = ids.index(-200)
    return labels[:place] + [-100] * IMAGE_TOKENS + labels[place + 1 :]
