from tests.data.check.records import check, findings, question, record


def picture(n, *turns, **fields):
    return record(*turns, image=f"{n}.jpg", **fields)


def test_nothing_stands_twice(tmp_path):
    train = [picture(n, "what?", "this", f"who {n}?", "that") for n in range(9)]
    train += [record(f"hello {n}", "hi", "go on", "ok") for n in range(3)]
    held_out = [question(n, "what?", f"v{n}.jpg") for n in range(9)]
    assert findings(check(tmp_path, {"train": train, "validation": held_out})) == []


def test_repeated_records_are_told_once_and_not_by_their_questions_too(tmp_path):
    train = [
        picture(1, "a?", "b", "c?", "d"),
        picture(2, "a?", "b"),
        picture(1, "a?", "b", "c?", "d", id="other"),
    ]
    train += [record("hi", "there"), record("hi", "there")]
    found = check(tmp_path, {"train": train})
    assert findings(found) == [("repeated-record", "train", 3, ""), ("repeated-record", "train", 5, "")]
    assert [
        (repeat.place.record, repeat.first.record, repeat.equal) for repeat in found.repeats.records()
    ] == [
        (3, 1, False),
        (5, 4, True),
    ]


def test_repeated_question_has_the_same_answer_and_picture(tmp_path):
    train = [
        picture(1, "a?", "b"),
        picture(1, "c?", "d", "A? ", "b"),
        picture(1, "a?", "other"),
        picture(2, "a?", "b"),
        record("a?", "b", "x", "y"),
    ]
    found = check(tmp_path, {"train": train})
    assert findings(found) == [("repeated-question", "train", 2, "conversations[2].value")]
    assert found.repeats.asked_again == 1


def test_leaks_are_told_at_the_later_split(tmp_path):
    train = [picture(1, "a?", "b"), picture(2, "c?", "d"), record("text alone?", "yes")]
    validation = [question(1, "A?", "1.jpg"), question(2, "a?", "2.jpg"), question(3, "text alone?")]
    test = [
        question(1, "new?", "1.jpg", task="VQAv2"),
        question(2, "a?", "9.jpg"),
        question(3, "a?", "2.jpg"),
    ]
    found = check(tmp_path, {"train": train, "validation": validation, "test": test})
    assert findings(found) == [
        ("leaked-question", "validation", 1, "text"),
        ("leaked-question", "validation", 3, "text"),
        ("leaked-question", "test", 3, "text"),
        ("leaked-picture", "validation", 1, "image"),
        ("leaked-picture", "validation", 2, "image"),
        ("shared-picture", "test", 1, "image"),
        ("leaked-picture", "test", 3, "image"),
    ]
    (first, *_) = found.findings.first["leaked-question"]
    assert first.got == f"those of record 1 of {tmp_path / 'train.json'}"


def test_conversation_in_two_splits_is_a_leak_and_no_repeat(tmp_path):
    found = check(tmp_path, {"train": [picture(1, "a?", "b")], "validation": [picture(1, "a?", "b")]})
    assert [kind for kind, *_ in findings(found)] == ["leaked-question", "leaked-picture"]


def test_small_talk_behind_a_first_question_is_no_leak(tmp_path):
    train = [record("hello", "hi", "go on", "ok"), picture(1, "a?", "b", "go on", "ok")]
    found = check(tmp_path, {"train": train, "validation": [question(1, "go on"), question(2, "Hello")]})
    assert findings(found) == [("leaked-question", "validation", 2, "text")]


def test_held_out_ids_are_of_their_file(tmp_path):
    held_out = {
        "validation": [question(1, "a?"), question("1", "b?")],
        "test": [question(1, "c?"), question(2, "d?")],
    }
    assert findings(check(tmp_path, held_out)) == [("repeated-id", "validation", 2, "question_id")]
