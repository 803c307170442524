"""What holds for any annotations: no answer is lost or doubled, nothing depends on the files' order."""

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotbal.collect import collect
from cotbal.collect.source import Source
from cotbal.data.gqa import prepare_gqa
from cotbal.data.refcoco import prepare_refcoco
from cotbal.data.sharegpt4v import prepare_sharegpt4v
from cotbal.data.task_folder import TaskFolder
from cotbal.data.turns import Turn
from tests.data import publishers
from tests.data.publishers import ref
from tests.data.reading import VQA, everything, inputs, pairs, rows, target, train

# Any text that is one after white space at its ends is gone.
TEXTS = (
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
    .map(lambda t: f"{t}?")
    .filter(lambda text: text.strip() == text)
)
QUESTIONS = st.lists(st.tuples(st.integers(0, 4), TEXTS, TEXTS), min_size=1, max_size=25)


@settings(max_examples=25, deadline=None)
@given(questions=QUESTIONS, order=st.randoms(use_true_random=False), seed=st.integers(0, 3))
def test_every_answer_once_and_the_order_of_the_file_does_not_matter(questions, order, seed):
    numbered = [(str(n), str(image), q, a) for n, (image, q, a) in enumerate(questions)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("a", "b"):
            publishers.gqa(folder / part, "train", numbered)
            prepare_gqa(folder / part, target(folder / f"out-{part}", seed=seed), inputs())
            order.shuffle(numbered)
        records = train(folder / "out-a" / "GQA")
        assert (folder / "out-a/GQA/train.json").read_bytes() == (
            folder / "out-b/GQA/train.json"
        ).read_bytes()
    found = Counter((record["image"], *pair) for record in records for pair in pairs(record))
    assert found == Counter((f"{image}.jpg", q, a) for _, image, q, a in numbered)
    assert len(records) == len({image for _, image, _, _ in numbered})


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=8), most=st.integers(1, 9))
def test_every_sentence_once_in_conversations_of_at_most_so_many_turns(sizes, most):
    ids = iter(range(1000))
    refs = [
        ref(n, n % 2, "train", [(id := next(ids), f"s{id}") for _ in range(k)]) for n, k in enumerate(sizes)
    ]
    boxes = {n: [n, 0, 10, 10] for n in range(len(sizes))}
    with tempfile.TemporaryDirectory() as name:
        folder = publishers.refcoco(Path(name) / "refcoco", refs, {0: (50, 40), 1: (50, 40)}, boxes)
        prepare_refcoco([folder], target(Path(name) / "out"), inputs(), most_turns=most)
        captions, boxed = (train(Path(name) / "out" / f"RefCOCO-{kind}") for kind in ("caption", "bbox"))
    for records in (captions, boxed):
        parts = Counter(record["image"] for record in records)
        for image, count in parts.items():
            turns = [len(pairs(record)) for record in records if record["image"] == image]
            assert all(size == most for size in turns[:-1])
            assert count == -(-sum(turns) // most)
    assert sorted(answer for record in captions for _, answer in pairs(record)) == sorted(
        f"s{n}" for n in range(sum(sizes))
    )
    assert len([pair for record in boxed for pair in pairs(record)]) == sum(sizes)


def test_held_out_questions_are_the_truth_that_collect_scores_against(tmp_path):
    questions = [(f"q{n}", f"{n % 3}", f"Is it {n}?", ("yes", "no")[n % 2]) for n in range(12)]
    publishers.gqa(tmp_path / "gqa", "train", questions)
    publishers.gqa(tmp_path / "gqa", "val", questions)
    path = publishers.sharegpt4v(
        tmp_path / "c.json", [(f"{n}.jpg", f"a thing of number {n}") for n in range(9)]
    )
    prepare_gqa(tmp_path / "gqa", target(tmp_path / "out"), inputs(), validation=10)
    prepare_sharegpt4v(path, target(tmp_path / "out"), inputs(), validation=6, test=0)
    for run in ("mini", "GQA", "ShareGPT4V"):
        for task in ("GQA", "ShareGPT4V"):
            held = rows(tmp_path / "out" / task / "val.jsonl")
            text = "\n".join(
                publishers.json.dumps({"question_id": row["question_id"], "text": row["answer"]})
                for row in held
            )
            (tmp_path / run).mkdir(exist_ok=True)
            (tmp_path / run / f"{task}.jsonl").write_text(text)
    sources = [
        Source(
            task,
            "llava",
            f"{task}.jsonl",
            metric,
            options={"truth": str(tmp_path / "out" / task / "val.jsonl")},
        )
        for task, metric in (("GQA", "EM"), ("ShareGPT4V", "CIDEr"))
    ]
    runs = {run: str(tmp_path / run) for run in ("mini", "GQA", "ShareGPT4V")}
    scores = collect(runs, sources).scores
    assert scores.mini.tolist()[0] == 1.0
    assert scores.mini.tolist()[1] > 5
    assert all(row["text"].endswith(VQA) for row in rows(tmp_path / "out" / "GQA" / "val.jsonl"))


def test_failed_run_leaves_the_one_before(tmp_path):
    publishers.gqa(tmp_path, "train", [("1", "5", "Who?", "me")])
    prepare_gqa(tmp_path, target(tmp_path / "out"), inputs())
    before = everything(tmp_path / "out")
    (tmp_path / "train_balanced_questions.json").write_text('{"1": ')
    with pytest.raises(ValueError, match="ends inside"):
        prepare_gqa(tmp_path, target(tmp_path / "out"), inputs())
    assert everything(tmp_path / "out") == before


def test_run_that_fails_after_its_training_file_takes_the_mark_away(tmp_path):
    publishers.gqa(tmp_path, "train", [("1", "5", "Who?", "me")])
    prepare_gqa(tmp_path, target(tmp_path / "out"), inputs())
    folder = TaskFolder(tmp_path / "out", "GQA", "json")
    folder.train([{"conversations": []}], inputs())
    twice = (Turn("7", image, "Who?", "me") for image in "ab")
    with pytest.raises(ValueError, match="expected each held-out question's id once, got '7' twice"):
        folder.held_out("val", twice)
    assert sorted(path.name for path in (tmp_path / "out" / "GQA").iterdir()) == [".unfinished", "train.json"]
    # And the same command goes on there.
    prepare_gqa(tmp_path, target(tmp_path / "out"), inputs())
    assert set(everything(tmp_path / "out")) == {"GQA/train.json", "GQA/prepared.json"}


@pytest.mark.parametrize("name", ["train.json", "train.jsonl", "val.jsonl", "test_refcoco_testA.jsonl"])
def test_a_folder_of_another_origin_keeps_its_files(name, tmp_path):
    publishers.gqa(tmp_path, "train", [("1", "5", "Who?", "me")])
    (tmp_path / "out" / "GQA").mkdir(parents=True)
    (tmp_path / "out" / "GQA" / "notes.txt").write_text("not in the way")
    prepare_gqa(tmp_path, target(tmp_path / "out"), inputs())
    (tmp_path / "out" / "GQA" / "prepared.json").unlink()
    (tmp_path / "out" / "GQA" / "train.json").unlink()
    (tmp_path / "out" / "GQA" / name).write_text("[]")
    before = everything(tmp_path / "out")
    with pytest.raises(ValueError, match=f"--out: expected a new folder, or one .* with a {name} of another"):
        prepare_gqa(tmp_path, target(tmp_path / "out"), inputs())
    assert everything(tmp_path / "out") == before


def test_names_of_any_language_have_folders_of_their_own(tmp_path):
    for name in ("图表", "问答", "A B"):
        folder = TaskFolder(tmp_path, name, "json")
        folder.train([{"conversations": []}], inputs())
        folder.finish("generic", 0, inputs())
    assert {path.name for path in tmp_path.iterdir()} == {"图表", "问答", "A_B"}
    with pytest.raises(ValueError, match="A_B: expected the folder of task 'A:B', got that of 'A B'"):
        TaskFolder(tmp_path, "A:B", "json")


@pytest.mark.parametrize("name", ["lang/en", "mini", "equal", " "])
def test_a_name_that_no_estimate_takes_is_refused_before_its_data_are_made(name, tmp_path):
    with pytest.raises(ValueError, match=f"expected a task name without '/' that is none of .*{name}'"):
        TaskFolder(tmp_path, name, "json")
    assert not list(tmp_path.iterdir())
