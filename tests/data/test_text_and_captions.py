"""ShareGPT4V and ShareGPT."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from cotbal.data.generic import prepare_generic
from cotbal.data.sharegpt import pairs as valid
from cotbal.data.sharegpt import prepare_sharegpt
from cotbal.data.sharegpt4v import prepare_sharegpt4v
from cotbal.data.tokens import fitting, load_counter
from tests.cli.watching import children, wait_until
from tests.data import publishers
from tests.data.reading import everything, inputs, pairs, rows, target, train


def test_sharegpt4v_is_parted_into_train_validation_and_test(tmp_path):
    captions = [(f"sam/images/sa_{n}.jpg", f"A picture of {n} things.") for n in range(50)]
    path = publishers.sharegpt4v(tmp_path / "caps.json", captions)
    prepare_sharegpt4v(path, target(tmp_path / "out"), inputs(), validation=7, test=8)
    folder = tmp_path / "out" / "ShareGPT4V"
    records, val, test = train(folder), rows(folder / "val.jsonl"), rows(folder / "test.jsonl")
    assert (len(records), len(val), len(test)) == (35, 7, 8)
    answers = [record["conversations"][1]["value"] for record in records] + [
        row["answer"] for row in val + test
    ]
    assert sorted(answers) == sorted(caption for _, caption in captions)
    asked = ("What do you see in this image?", "What do you see happening in this image?")
    number = int(val[0]["image"].removeprefix("sam/images/sa_").removesuffix(".jpg"))
    assert val[0] == {
        "question_id": f"ShareGPT4V-{number}",
        "image": f"sam/images/sa_{number}.jpg",
        "text": asked[number % 2],
        "answer": f"A picture of {number} things.",
        "task": "ShareGPT4V",
    }
    # The picture's place stays as published.
    questions = {record["conversations"][0]["value"] for record in records}
    assert questions == {f"<image>\n{asked[0]}", f"{asked[1]}\n<image>"}
    assert records[0]["id"].startswith("sa_")
    before = everything(tmp_path / "out")
    with pytest.raises(ValueError, match="--validation 25 and --test 25: expected records left to train on"):
        prepare_sharegpt4v(path, target(tmp_path / "out"), inputs(), validation=25, test=25)
    assert everything(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("turns", "found"),
    [
        ([("human", " Hi "), ("gpt", "Hello.")], [("Hi", "Hello.")]),
        ([("system", "Be kind."), ("human", "Hi"), ("gpt", "Hello.")], [("Hi", "Hello.")]),
        ([("gpt", "so,"), ("human", "Hi"), ("gpt", "Hello."), ("human", "And?")], [("Hi", "Hello.")]),
        ([("human", "Hi")], "too short"),
        ([], "too short"),
        ([("human", "Hi"), ("human", "Hi"), ("gpt", "Hello.")], "roles do not alternate"),
        ([("human", "Hi"), ("bing", "Hello.")], "roles do not alternate"),
        ([("human", "Hi"), ("gpt", " \n")], "an empty text"),
        ([("human", "<image> Hi"), ("gpt", "Hello.")], "holds <image>"),
        ([("human", "Hi"), ("gpt", "I am ChatGPT.")], "speaks of the model's maker"),
        ([("human", "Hi"), ("gpt", "\ud800")], "not UTF-8"),
    ],
)
def test_invalid_conversations_are_left_out_with_their_reason(turns, found):
    assert valid({"conversations": [{"from": who, "value": value} for who, value in turns]}) == found


@pytest.mark.parametrize(
    "fields", [{}, {"conversations": 3}, {"conversations": [1]}, {"conversations": [{"from": 1}]}]
)
def test_what_is_no_conversation_is_left_out(fields):
    assert valid(fields) == "no conversation"


def test_record_with_a_picture_is_left_out():
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert valid({"image": "x.jpg", "conversations": turns}) == "with a picture"


@pytest.mark.parametrize("nothing", [None, ""])
def test_record_whose_picture_is_null_is_of_text_alone(nothing):
    # As LLaVA's mixture is, saved again from a table.
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert valid({"image": nothing, "conversations": turns}) == [("a", "b")]


def test_where_all_is_left_out_the_error_tells_why(tmp_path):
    turns = [("user", "Hi"), ("assistant", "Hello.")]
    path = publishers.sharegpt(tmp_path / "sg.json", [turns, turns])
    tokenizer = str(publishers.word_tokenizer(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"to train on, got none; left out: 2 too short$"):
        prepare_sharegpt(path, target(tmp_path / "out"), inputs(), tokenizer=tokenizer)
    (tmp_path / "t.jsonl").write_text('{"Q": "how many?", "A": 3.5}\n')
    options = {"task": "T", "columns": {"question": "Q", "answer": "A"}}
    told = "got none; left out: 1 invalid, the first: .*record 1, field 'A': expected a text .*, got 3.5"
    with pytest.raises(ValueError, match=told):
        prepare_generic(tmp_path / "t.jsonl", target(tmp_path / "out"), inputs(skip_invalid=True), **options)


def test_an_id_that_is_not_unique_is_told_with_its_file_and_records(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("q,a,n,im\nx?,y,1,a.png\nz?,w,2,b.png\nu?,v,1,a.png\ns?,t,1,c.png\n")
    options = {"task": "T", "columns": {"question": "q", "answer": "a", "id": "n", "image": "im"}}
    where = r"t\.csv: .*'1'.* twice.*; field 'n' has it in record 1, record 3, record 4\. Give each row"
    for validation in (0, 2):
        with pytest.raises(ValueError, match=where):
            prepare_generic(path, target(tmp_path / "out"), inputs(), validation=validation, **options)


@pytest.mark.parametrize("task", ["..", ".hidden"])
def test_a_name_that_is_a_path_writes_nothing(tmp_path, task):
    """Into the parent folder, or where `prepare mix` does not look."""
    (tmp_path / "t.csv").write_text("q,a\nx?,y\n")
    before = everything(tmp_path)
    options = {"task": task, "columns": {"question": "q", "answer": "a"}}
    with pytest.raises(ValueError, match=r"expected a name that does not begin with '\.'"):
        prepare_generic(tmp_path / "t.csv", target(tmp_path / "out"), inputs(), **options)
    assert everything(tmp_path) == before


def words(text):
    return len(text.split())


def test_conversation_is_cut_after_the_last_answer_that_fits():
    # Words, and 6 for each of the two messages of a pair: 15, 18 and 21 tokens.
    found = [("q", "a b"), ("q q", "a b c d"), ("q q q", "a b c d e f")]
    assert fitting(found, words, 54) == found
    assert fitting(found, words, 53) == found[:2]
    assert fitting(found, words, 33) == found[:2]
    assert fitting(found, words, 32) == found[:1]
    assert fitting(found, words, 15) == found[:1]
    # Not even the first answer: it is cut itself, 12 and the question's word leave 1.
    assert fitting(found, words, 14) == [("q", "a")]
    assert fitting(found, words, 13) == []
    assert fitting(found, words, 5) == []


# Each process imports torch: seconds.
@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.full)])
def test_sharegpt_counts_tokens_alike_with_any_number_of_workers(tmp_path, workers):
    conversations = [[("human", f"Question {n}"), ("gpt", "word " * (n + 1))] * 3 for n in range(40)]
    conversations += [[("human", "alone")], [("human", "Hi"), ("gpt", "As an OpenAI model")]]
    path = publishers.sharegpt(tmp_path / "sg.json", conversations)
    tokenizer = str(publishers.word_tokenizer(tmp_path / "tokenizer.json"))
    for name, crew in (("a", 1), ("b", workers)):
        options = {"tokenizer": tokenizer, "most_tokens": 60, "workers": crew}
        (written,) = prepare_sharegpt(path, target(tmp_path / name), inputs(), **options)
    assert everything(tmp_path / "a") == everything(tmp_path / "b")
    records = train(tmp_path / "a" / "ShareGPT")
    # 2 + n + 1 words and 12 for each pair: three fit while n <= 5, two while n <= 15, one while n <= 45.
    assert [len(pairs(record)) for record in records] == [3] * 6 + [2] * 10 + [1] * 24
    assert records[0]["id"] == "QWJhYvA_0"
    assert "image" not in records[0]
    assert written["left_out"] == {"speaks of the model's maker": 1, "too short": 1}
    assert written["cut"] == 34


def test_tokenizer_that_transformers_makes_counts_as_well(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\nhello\nworld\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert load_counter(str(tmp_path))("hello world hello") == 3
    with pytest.raises(ValueError, match="--tokenizer: expected a tokenizer"):
        load_counter(str(tmp_path / "no such folder"))


def test_tokenizer_of_sentencepiece_without_its_packages_is_told_which(monkeypatch):
    def without(name):
        # Of Python's import errors and its own, transformers raises now these, now those.
        raise ImportError("`tiktoken` is required to read a `tiktoken` file")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", without)
    with pytest.raises(
        ValueError, match=r"a tokenizer\.model, .* needs the packages sentencepiece and protobuf"
    ):
        load_counter("lmsys/vicuna-7b-v1.5")


def test_what_a_call_left_in_the_tokenizer_cuts_and_pads_no_count(tmp_path):
    path = publishers.word_tokenizer(tmp_path / "tokenizer.json")
    used = Tokenizer.from_file(str(path))
    used.enable_truncation(3)
    used.enable_padding(length=5)
    used.save(str(path))
    count = load_counter(str(path))
    assert [count("word " * n) for n in (1, 9)] == [1, 9]


# Each process imports torch: seconds.
@pytest.mark.full
def test_killed_worker_ends_it_in_a_sentence(tmp_path):
    turns = [("human", "Question"), ("gpt", "word " * 20_000)]
    publishers.sharegpt(tmp_path / "sg.json", [turns] * 2000)
    tokenizer = publishers.word_tokenizer(tmp_path / "tokenizer.json")
    run = f"""
from pathlib import Path
from cotbal.data.sharegpt import prepare_sharegpt
from tests.data.reading import inputs, target
if __name__ == "__main__":
    prepare_sharegpt(Path("sg.json"), target(Path("out")), inputs(), tokenizer="{tokenizer}", workers=2)
"""
    (tmp_path / "run.py").write_text(run)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "run.py"], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: sum(map(works, children(process.pid))) == 2, process, seconds=60)
        os.kill(next(filter(works, children(process.pid))), signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "--workers: expected 2 processes to last, one was killed" in errors


def works(pid):
    """Whether the process counts tokens."""
    return "tokenizers" in Path(f"/proc/{pid}/maps").read_text()


def test_missing_tokenizer_is_told(tmp_path):
    path = publishers.sharegpt(tmp_path / "sg.json", [[("human", "a"), ("gpt", "b")]])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="--tokenizer: expected a tokenizer in"):
        prepare_sharegpt(path, target(tmp_path / "out"), inputs(), tokenizer=str(tmp_path))
