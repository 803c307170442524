from cotbal.data.check.lengths import SYSTEM, in_tokens, in_words
from cotbal.data.check.schema import Settings
from tests.data import publishers
from tests.data.check.records import check, findings, record

SIZE = len(SYSTEM.split())


def words(text):
    return len(text.split())


def test_positions_are_those_of_the_template():
    # BOS, system, USER:, what is it? ASSISTANT:, a cat </s>
    assert in_tokens([("what is it?", "a cat")], False, words, 2048) == (
        *(1 + SIZE + 1 + 4 + 3, 3, 1 + SIZE + 1 + 4 + 3, 3),
    )
    two = in_tokens([("<image>\nwhat is it?", "a cat"), ("who?", "me")], True, words, 2048)
    assert two == (1 + SIZE + 1 + 576 + 4 + 3 + 3 + 2, 5, 1 + SIZE + 1 + 576 + 4 + 3 + 3 + 2, 5)


def test_truncation_cuts_answers_and_may_leave_none():
    turns = [("what?", "a b c"), ("who?", "d e")]
    whole = in_tokens(turns, False, words, 2048)
    for most in range(1, whole.positions + 3):
        # Position by position: which are trained on.
        trained = [False] * (1 + SIZE + 3) + [True] * 4 + [False] * 3 + [True] * 3
        cut = in_tokens(turns, False, words, most)
        assert len(trained) == cut.positions == whole.positions
        assert (cut.kept, cut.kept_valid) == (len(trained[:most]), sum(trained[:most]))


def test_words_are_counted_without_a_tokenizer():
    assert in_words([("<image>\nwhat is it?", "a cat"), ("who?", "me")]) == (7, 3, 7, 3)


def test_conversation_without_an_answer_left_is_an_error(tmp_path):
    path = publishers.word_tokenizer(tmp_path / "tokenizer.json")
    records = [record("what?", "a b"), record("what is " * 40, "a"), record("who?", "x " * 90)]
    settings = Settings(tokenizer=str(path), most_tokens=80)
    found = check(tmp_path, {"train": records}, settings)
    assert findings(found) == [("no-answer-left", "train", 2, "conversations")]
    (task,) = found.content()["tasks"]
    assert (task["cut"], task["no_answer_left"], task["measured"]) == (2, 1, 3)
    assert task["kept_positions"] == found.tally.sizes["train", "GQA"].kept
    assert task["ignored"] == 1 - task["kept_valid"] / task["kept_positions"]
    assert sum(task["lengths"]) == sum(task["answers"]) == 3
