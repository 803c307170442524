"""From records to tensors: answers alone are trained on, every example once per epoch."""

import numpy as np
import torch

from cotbal.demo.batches import collate, encode_prompt, encode_record, epoch_batches, to_pixels
from cotbal.demo.questions import TASKS
from cotbal.demo.records import load_corpus, make_record
from cotbal.demo.tokenizer import END_ID, IMAGE_ID, PAD_ID, decode

PICTURE = np.arange(24 * 24 * 3, dtype=np.int64).astype(np.uint8).reshape(24, 24, 3)
TURNS = [("what digit is red ?", "3"), ("what color is the 3 ?", "red")]


def test_labels_stand_on_answers_and_their_end_only() -> None:
    record = make_record("x", "vqa", TURNS, "answer with a single word .", image=True)
    example = encode_record(record, PICTURE, 2)
    assert len(example.ids) == len(example.labels)
    trained = [label for label in example.labels if label != -100]
    assert trained.count(END_ID) == 2
    assert decode(trained) == "3"
    assert decode(trained[2:]) == "red"
    # Where a label stands it is the token itself: the loss shifts, not the data.
    assert all(label in (-100, token) for token, label in zip(example.ids, example.labels, strict=True))
    assert example.ids.count(IMAGE_ID) == 9


def test_every_answer_of_the_corpora_is_in_the_labels() -> None:
    for task in ("caption", "regcap", "chat"):
        corpus = load_corpus("micro", 0, task, "train")
        for index, record in enumerate(corpus.records[:20]):
            labels = encode_record(record, corpus.image(index), 0).labels
            text = " ".join(decode([label]) for label in labels if label not in (-100, END_ID))
            assert text == " ".join(turn["value"] for turn in record["conversations"][1::2])
        assert TASKS[task].instruction not in text


def test_collate_pads_right_for_training_and_left_for_generation() -> None:
    long = encode_record(make_record("a", "vqa", TURNS, "", image=True), PICTURE, 1)
    short = encode_record(make_record("b", "chat", [("what comes after 3 ?", "4")], "", image=False), None, 0)
    right, left = collate([short, long]), collate([short, long], left=True)
    gap = len(long.ids) - len(short.ids)
    assert right.input_ids[0].tolist() == short.ids + [PAD_ID] * gap
    assert left.input_ids[0].tolist() == [PAD_ID] * gap + short.ids
    for batch in (right, left):
        assert torch.equal(batch.attention_mask == 0, batch.input_ids == PAD_ID)
        assert (batch.labels[batch.input_ids == PAD_ID] == -100).all()
        assert batch.task_ids.tolist() == [0, 1]
        assert batch.pixel_values.shape == (1, 3, 24, 24)
    assert "pixel_values" not in collate([short]).inputs()


def test_a_prompt_ends_where_the_answer_begins() -> None:
    record = make_record("x", "vqa", TURNS, "", image=True)
    prompt, whole = encode_prompt(record, PICTURE), encode_record(record, PICTURE, 0)
    assert whole.ids[: len(prompt.ids)] == prompt.ids
    assert whole.labels[len(prompt.ids)] != -100
    assert set(whole.labels[: len(prompt.ids)]) == {-100}


def test_pixels_lie_in_minus_one_to_one_channels_first() -> None:
    pixels = to_pixels([PICTURE])
    assert pixels.dtype == torch.float32
    assert pixels.min() == -1
    assert pixels.max() == 1
    assert pixels[0, 2, 5, 7].item() == float(np.float32(PICTURE[5, 7, 2]) / np.float32(127.5) - 1)


def test_every_example_once_per_epoch_in_batches_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(10, 60, 300).tolist()
    batches = list(epoch_batches(lengths, 2, 32, np.random.default_rng(1)))
    assert len(batches) == 2 * 10
    for epoch in (batches[:10], batches[10:]):
        assert sorted(index for batch in epoch for index in batch) == list(range(300))
    spread = np.mean([np.std([lengths[index] for index in batch]) for batch in batches])
    assert spread < 0.5 * np.std(lengths)
    assert batches == list(epoch_batches(lengths, 2, 32, np.random.default_rng(1)))
