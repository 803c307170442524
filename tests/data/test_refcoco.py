import pickle
from pathlib import PurePosixPath

import pytest

from cotbal.data.boxes import box_text
from cotbal.data.refcoco import prepare_refcoco
from cotbal.metrics.grounding import parse_box
from tests.data import publishers
from tests.data.publishers import ref
from tests.data.reading import inputs, pairs, rows, target, train

CAPTION = "Provide a short description for this region."
BBOX = "Provide the bounding box coordinate of the region this sentence describes."


@pytest.mark.parametrize(
    ("box", "size", "text"),
    [
        # 200 x 100: the square is 200, the picture begins 50 below its top.
        ((50, 0, 100, 100), (200, 100), "[0.25, 0.25, 0.75, 0.75]"),
        # 100 x 200: 50 to the right of its left edge.
        ((0, 50, 100, 100), (100, 200), "[0.25, 0.25, 0.75, 0.75]"),
        # 640 x 427, as COCO has: the margin is (640 - 427) // 2 = 106; (214.15 + 106) / 640 = .5002.
        ((103.93, 214.15, 236.8, 180.55), (640, 427), "[0.16, 0.50, 0.53, 0.78]"),
        ((0, 0, 640, 427), (640, 427), "[0.00, 0.17, 1.00, 0.83]"),
        # Over the edge by rounding: cut there.
        ((-0.4, 0, 640.9, 427.3), (640, 427), "[0.00, 0.17, 1.00, 0.83]"),
        # Too thin for two decimals: rounded outward.
        ((100.5, 0, 1, 500), (500, 500), "[0.20, 0.00, 0.21, 1.00]"),
    ],
)
def test_box_is_that_of_the_padded_square(box, size, text):
    assert box_text(box, *size) == text


@pytest.mark.parametrize(
    "box",
    [
        *((0, 0, 0, 5), (0, 0, 5, -1), (90, 0, 12, 5), (-2, 0, 5, 5), (0, 0, float("nan"), 5)),
        # Beside the edge, by less than the pixel that is cut.
        *((100, 0, 1, 5), (100.5, 0, 0.4, 5), (-1, 0, 1, 5), (0, 100, 5, 1), (0, -0.5, 5, 0.2)),
    ],
)
def test_box_without_area_or_outside_its_picture_is_refused(box):
    with pytest.raises(ValueError, match="a box"):
        box_text(box, 100, 100)


@pytest.fixture
def release(tmp_path):
    """Picture 1 is in both sets; 12 sentences of RefCOCO and 1 of RefCOCOg are on it."""
    many = [ref(n, 1, "train", [(10 * n + k, f"thing {n} {k}") for k in range(3)]) for n in range(4)]
    others = [
        ref(10, 2, "val", [(100, "left man"), (101, "man")]),
        ref(11, 3, "testA", [(110, "woman"), (111, "lady")]),
        ref(12, 4, "testB", [(120, "a cup")]),
    ]
    size = dict.fromkeys(range(1, 7), (200, 100))
    boxes = {n: [10.0 * (n % 5), 0, 50, 100] for n in range(20)}
    publishers.refcoco(tmp_path / "refcoco", many + others, size, boxes)
    g = [
        ref(0, 1, "train", [(0, "the small cup in front")]),
        ref(1, 5, "train", [(1, "a tall tree")]),
        ref(2, 6, "val", [(2, "a bench")]),
        ref(3, 6, "test", [(3, "the sky")]),
    ]
    publishers.refcoco(tmp_path / "refcocog", g, size, boxes)
    publishers.refcoco(tmp_path / "refcoco+", [ref(0, 1, "train", [(0, "plus")])], size, boxes)
    return tmp_path


def test_sentences_of_both_sets_are_merged_by_picture_and_parted_after_nine_turns(release):
    folders = [release / "refcoco", release / "refcocog"]
    prepare_refcoco(folders, target(release / "out", "coco/train2014"), inputs())
    captions, boxes = (train(release / "out" / f"RefCOCO-{kind}") for kind in ("caption", "bbox"))
    assert [len(pairs(record)) for record in captions] == [9, 4, 1]
    assert [len(pairs(record)) for record in boxes] == [9, 4, 1]
    stem = "coco/train2014/COCO_train2014_00000000000"
    ends = ("1.jpg-1", "1.jpg-2", "5.jpg")
    assert [record["id"] for record in boxes] == [f"RefCOCO-bbox-{stem}{end}" for end in ends]
    assert {record["image"] for record in boxes[:2]} == {f"{stem}1.jpg"}
    # 200 x 100, box [x, 0, 50, 100]: [x/200, .25, (x+50)/200, .75], x = 10 n
    wanted = {
        f"thing {n} {k}": f"[{n * 0.05:.2f}, 0.25, {n * 0.05 + 0.25:.2f}, 0.75]"
        for n in range(4)
        for k in range(3)
    }
    wanted |= {
        "the small cup in front": "[0.00, 0.25, 0.25, 0.75]",
        "a tall tree": "[0.05, 0.25, 0.30, 0.75]",
    }
    told = [pair for record in captions for pair in pairs(record)]
    assert sorted(told) == sorted((f"{CAPTION} {box}", text) for text, box in wanted.items())
    found = [pair for record in boxes for pair in pairs(record)]
    assert sorted(found) == sorted((f"{BBOX} {text}", box) for text, box in wanted.items())
    assert captions[2]["conversations"] == [
        {"from": "human", "value": f"<image>\n{CAPTION} [0.05, 0.25, 0.30, 0.75]"},
        {"from": "gpt", "value": "a tall tree"},
    ]


def test_held_out_sets_ask_for_each_sentence_and_for_each_region(release):
    folders = [release / "refcoco", release / "refcocog"]
    prepare_refcoco(folders, target(release / "out"), inputs())
    out = release / "out" / "RefCOCO-bbox"
    assert {row["question_id"] for row in rows(out / "val.jsonl")} == {
        "refcoco-100",
        "refcoco-101",
        "refcocog-2",
    }
    assert len(rows(out / "test_Ref-test.jsonl")) == 2
    assert [row["text"] for row in rows(out / "test_Ref-testB.jsonl")] == [f"{BBOX} a cup"]
    assert [row["answer"] for row in rows(out / "test_Refg-test.jsonl")] == ["[0.15, 0.25, 0.40, 0.75]"]
    for row in rows(out / "val.jsonl"):
        assert parse_box(row["answer"]) is not None
    (row,) = rows(release / "out" / "RefCOCO-caption" / "test_Ref-test.jsonl")
    # Ref 11: x = 10, [0.05, 0.25, 0.30, 0.75].
    assert row == {
        "question_id": "refcoco-11",
        "image": "COCO_train2014_000000000003.jpg",
        "text": f"{CAPTION} [0.05, 0.25, 0.30, 0.75]",
        "answer": ["woman", "lady"],
        "task": "RefCOCO-caption",
    }


def test_refcoco_plus_makes_tasks_of_its_own(release):
    folders = [release / name for name in ("refcoco", "refcoco+", "refcocog")]
    written = prepare_refcoco(folders, target(release / "out"), inputs(), kinds=("bbox",))
    assert [each["task"] for each in written] == ["RefCOCO-bbox", "RefCOCO+-bbox"]
    assert pairs(train(release / "out" / "RefCOCO_-bbox")[0]) == [
        (f"{BBOX} plus", "[0.00, 0.25, 0.25, 0.75]")
    ]


def test_box_outside_its_picture_is_told_with_file_record_and_field(release):
    size = {1: (30, 100)}
    publishers.refcoco(release / "refcoco", [ref(0, 1, "train", [(0, "x")])], size, {0: [0, 0, 50, 100]})
    with pytest.raises(
        ValueError, match=r"instances\.json: 'annotations', record 1, field 'bbox': expected a box inside"
    ):
        prepare_refcoco([release / "refcoco"], target(release / "out"), inputs())
    assert not (release / "out" / "RefCOCO-bbox" / "prepared.json").exists()


def test_invalid_refs_can_be_left_out_and_are_counted(release):
    refs = [ref(n, 1, "train", [(n, f"thing {n}")]) for n in range(4)]
    boxes = {n: [0, 0, 50, 100] for n in range(4)}
    publishers.refcoco(release / "refcoco", refs, {1: (200, 100)}, boxes | {2: [0, 0, 900, 100]})
    reading = inputs(skip_invalid=True)
    prepare_refcoco([release / "refcoco"], target(release / "out"), reading)
    (record,) = train(release / "out" / "RefCOCO-caption")
    assert sorted(answer for _, answer in pairs(record)) == ["thing 0", "thing 1", "thing 3"]
    assert reading.left_out == {"invalid": 1}
    assert "record 3, field 'bbox'" in reading.first_left_out[0]


class _Harmful:
    def __reduce__(self):
        return (PurePosixPath, ("x",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_names_a_class_is_refused_before_anything_runs(release, protocol):
    refs = [ref(0, 1, "train", [(0, "x")]) | {"extra": _Harmful()}]
    (release / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=protocol))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p: instruction \d+: .* which can run code"):
        prepare_refcoco([release / "refcoco"], target(release / "out"), inputs())


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_pickle_cut_anywhere_is_told(release, protocol):
    path = release / "refcoco" / "refs(unc).p"
    whole = pickle.dumps([ref(0, 1, "train", [(0, "x")])], protocol=protocol)
    for end in range(0, len(whole), 3):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"refs\(unc\)\.p"):
            prepare_refcoco([release / "refcoco"], target(release / "out"), inputs())


def test_pickle_whose_memo_would_take_all_memory_is_refused(release):
    # MARK, LIST, LONG_BINPUT 2**31 - 1, STOP
    (release / "refcoco" / "refs(unc).p").write_bytes(b"(lr\xff\xff\xff\x7f.")
    with pytest.raises(ValueError, match="a memo of 2147483647 places"):
        prepare_refcoco([release / "refcoco"], target(release / "out"), inputs())
