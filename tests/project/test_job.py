import hashlib
import json
import sys

import pytest

from cotbal.collect.scoring import METRICS
from cotbal.project import job
from cotbal.project.data import SECOND, fingerprint
from cotbal.project.job import read_score
from cotbal.runs import processes
from cotbal.runs.processes import CommandError
from cotbal.weights import TaskWeights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "wrote no score"),
        ('{"score": 0.5, "items": [0.5, ', "got no JSON"),
        ("[0.5]", r"got \[0.5\]"),
        ('{"score": "0.5"}', 'got {"score": "0.5"}'),
        ('{"score": true}', 'got {"score": true}'),
        ('{"score": NaN}', "got "),
        (f'{{"score": 1{"0" * 400}}}', "got "),
        ('{"score": 0.1, "score": 0.9}', "got no JSON: each key may stand once, repeated: score"),
        ('{"score": 1, "items": []}', "items that are no list of numbers"),
        ('{"score": 1, "items": [1, null]}', "items that are no list of numbers"),
        ('{"score": 1, "items": {"a": 1}}', "items that are no list of numbers"),
        ('{"score": 1, "items": [1, 1], "clusters": [1]}', "clusters that are not one number per item"),
        ('{"score": 1, "clusters": [1]}', "clusters that are not one number per item"),
        ('{"score": 1, "items": [1, 1], "clusters": ["a", "b"]}', "clusters that are no whole numbers"),
        ('{"score": 1, "items": [1, 0.5]}', "got the score 1 and items whose mean is 0.75; give the items"),
    ],
)
def test_what_is_no_score_is_told_with_what_was_expected(tmp_path, text, message):
    path = tmp_path / "scores.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CommandError, match=message) as caught:
        read_score(path)
    assert f'expected {{"score": number, "items": [numbers]?}} in {path}' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [{"score": 1.0, "items": [1.0]}, {"score": 0.5, "items": [1.0, 0.0], "clusters": [3, 3]}]
)
def test_one_item_or_one_cluster_is_a_score_too(tmp_path, content):
    """As of a validation file of one question, or of questions on one picture."""
    (tmp_path / "scores.json").write_text(json.dumps(content))
    assert read_score(tmp_path / "scores.json") == content


def test_score_with_and_without_items(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"score": 0.75, "items": [1, 0.5], "more": "is ignored"}))
    assert read_score(path) == {"score": 0.75, "items": [1.0, 0.5]}
    # Six digits of a percentage.
    path.write_text('{"score": 66.6667, "items": [100, 100, 0]}')
    assert read_score(path)["score"] == 66.6667
    path.write_text('{"score": 0.25}')
    assert read_score(path) == {"score": 0.25, "items": None}
    path.write_text('{"score": 1, "items": [1, 1], "clusters": [3, 4]}')
    assert read_score(path) == {"score": 1.0, "items": [1.0, 1.0], "clusters": [3, 4]}


def test_score_of_another_metric_than_the_tasks_is_refused(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text('{"metric": "EM", "score": 0.5}')
    for metric in (None, "EM", "score", "character error rate"):
        assert read_score(path, metric)["score"] == 0.5
    with pytest.raises(CommandError, match=r"by CIDEr, the task's metric in the YAML.*got one by EM"):
        read_score(path, "CIDEr")
    path.write_text('{"metric": "f1", "score": 0.5}')
    with pytest.raises(CommandError, match="got one by f1"):
        read_score(path, "mIoU")
    assert list(METRICS) == list(job.METRICS)


@pytest.mark.parametrize(
    ("log", "work"),
    [
        ("", 0),
        ("Loading checkpoint shards: 100%| 2/2 [00:01<00:00]\n", 0),
        (" 10%|#   | 12/120 [00:01<00:10]\r 25%|## | 30/120 [00:03<00:09]", 250),
        ("30/1200 [00:03", 0),
        ("999/120 [00:03", 1000),
    ],
)
def test_progress_is_that_of_the_last_bar_over_all_steps(tmp_path, log, work):
    path = tmp_path / "log.txt"
    path.write_text("x" * (job.LOG_BYTES + 5) + "\n" + log)
    assert job.work_done(path, {"steps": 120, "work": 1000}) == work
    assert job.work_done(path, {"steps": None, "work": 1000}) == 0


def test_progress_in_a_log_that_has_begun_anew(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("3/4 [00:01<00:01")
    assert job.work_done(path, {"steps": 4, "work": 8}, 999) == 6


def test_bar_of_an_earlier_try_is_not_this_ones_progress(tmp_path, monkeypatch):
    folder, told = tmp_path / "runs" / "key", []
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("3/4 [00:01<00:01")
    monkeypatch.setattr(job, "LOOK_SECONDS", 0.0)
    command = f"sleep 0.3; echo '1/4 [' >> {folder / 'log.txt'}; sleep 0.3; touch {{output}}/model"
    job.train(training(tmp_path, command), folder, told.append)
    assert [*dict.fromkeys(told)] == [0, 2]


@pytest.mark.parametrize("resume", [True, False])
def test_answers_of_an_evaluation_that_resumes_are_kept_and_otherwise_removed(tmp_path, resume):
    folder = tmp_path / "runs" / "key"
    folder.mkdir(parents=True)
    (tmp_path / "outputs" / "model").mkdir(parents=True)
    # Each try notes itself among the answers; the score is how many there are.
    command = 'echo try >> {output}/a; echo "{{\\"score\\": $(wc -l < {output}/a)}}" > {scores}'
    context = {
        "out": str(tmp_path),
        "folder": str(tmp_path),
        "file": None,
        "model": "model",
        "python_path": None,
    }
    settings = {"command": command, "data": None, "needs": {}, "context": {**context, "resume": resume}}
    scores = [job.evaluate(settings, folder, lambda done: None)["score"] for _ in range(2)]
    assert scores == ([1, 2] if resume else [1, 1])


def resuming(tmp_path):
    """The folder and the settings of an evaluation whose score is how many tries are among its answers."""
    folder = tmp_path / "runs" / "key"
    folder.mkdir(parents=True)
    (tmp_path / "outputs" / "model").mkdir(parents=True)
    command = 'echo try >> {output}/a; echo "{{\\"score\\": $(wc -l < {output}/a)}}" > {scores}'
    context = {
        "out": str(tmp_path),
        "folder": str(tmp_path),
        "file": None,
        "python_path": None,
        "resume": True,
    }
    needs = {"mini": str(tmp_path / "runs" / "model")}
    return folder, {"command": command, "data": None, "needs": needs, "context": context}


def test_evaluation_that_resumes_keeps_no_answers_of_an_earlier_model(tmp_path):
    folder, settings = resuming(tmp_path)
    # Trained once, and a second time after a mistake in the script.
    results = [
        job.evaluate(settings | {"made_from": {"model": finished}}, folder, lambda done: None)
        for finished in (1.0, 1.0, 2.0, 2.0)
    ]
    assert [result["score"] for result in results] == [1, 2, 1, 2]
    assert [result.get("resumed") for result in results] == [None, True, None, True]


def test_answers_of_an_earlier_model_that_cannot_be_removed_are_none_of_this_one(tmp_path, monkeypatch):
    """As those that a container has written as another user: the model had the earlier one's score."""
    folder, settings = resuming(tmp_path)
    job.evaluate(settings | {"made_from": {"model": 1.0}}, folder, lambda done: None)
    with monkeypatch.context() as stuck:
        stuck.setattr(job.shutil, "rmtree", lambda folder, ignore_errors: None)
        with pytest.raises(job.CommandError, match=r"cannot be removed, such as .*outputs/key/\S+; remove"):
            job.evaluate(settings | {"made_from": {"model": 2.0}}, folder, lambda done: None)
        # NFS keeps what somebody reads under such a name.
        for path in (tmp_path / "outputs" / "key").iterdir():
            path.rename(path.with_name(f".nfs{path.name}"))
        assert job.evaluate(settings | {"made_from": {"model": 2.0}}, folder, print)["score"] == 1


def training(tmp_path, command, **context):
    """The settings of a training on a file of two records."""
    (tmp_path / "a.json").write_text('[{"id": 1}, {"id": 2}]')
    paths = {"out": str(tmp_path), "folder": str(tmp_path), "python_path": None}
    parts = [{"task": "a", "files": [str(tmp_path / "a.json")]}]
    numbers = {"samples": 2, "steps": 4, "work": 8, "resume": False}
    known = [
        {"task": "a", "share": "full", "sha256": [hashlib.sha256(b'[{"id": 1}, {"id": 2}]').hexdigest()]}
    ]
    settings = {"command": command, "format": "json", "weights": {"a": 1.0}, "data": known}
    return settings | {"context": {**paths, "parts": parts, **numbers, **context}}


@pytest.mark.parametrize("resume", [True, False])
def test_training_has_its_data_and_weights_and_leaves_its_model(tmp_path, resume):
    folder, mixtures = tmp_path / "runs" / "key", tmp_path / "data" / "mixtures"
    folder.mkdir(parents=True)
    mixtures.mkdir(parents=True)
    for name in (f".key.json.{'0' * 32}.tmp", f".other.json.{'0' * 32}.tmp"):
        (mixtures / name).write_text("cut off")
    # A checkpoint of an earlier try.
    (tmp_path / "outputs" / "key").mkdir(parents=True)
    (tmp_path / "outputs" / "key" / "checkpoint").write_text("half")
    settings = training(tmp_path, "cp {data} {output}/data; cp {weights} {output}/weights", resume=resume)
    result = job.train(settings, folder, lambda done: None)
    expected = {"output": "outputs/key", "samples": 2, "steps": 4}
    assert result == expected | ({"resumed": True} if resume else {})
    output = tmp_path / result["output"]
    assert json.loads((output / "data").read_text()) == [{"task": "a", "id": 1}, {"task": "a", "id": 2}]
    assert TaskWeights.load(output / "weights").weights == {"a": 1.0}
    assert (output / "checkpoint").exists() == resume
    # The data may be large; another run may be writing its own.
    assert [path.name for path in mixtures.iterdir()] == [f".other.json.{'0' * 32}.tmp"]


def test_training_whose_command_has_moved_its_data_away_is_finished(tmp_path):
    folder = tmp_path / "runs" / "key"
    folder.mkdir(parents=True)
    settings = training(tmp_path, "mv {data} {output}/data")
    assert job.train(settings, folder, lambda done: None)["samples"] == 2


def test_training_on_data_that_has_changed_since_the_plan_is_refused(tmp_path):
    folder = tmp_path / "runs" / "key"
    folder.mkdir(parents=True)
    settings = training(tmp_path, "touch {output}/model {data}")
    (tmp_path / "a.json").write_text('[{"id": 1}, {"id": 3}]')
    with pytest.raises(
        CommandError, match=r"a\.json: expected the file of .*it has changed since\. Start again"
    ):
        job.train(settings, folder, lambda done: None)
    assert list((tmp_path / "data" / "mixtures").iterdir()) == []
    assert list((tmp_path / "outputs" / "key").iterdir()) == []


def shard(*items):
    """A process that looks at the questions and writes the score of its items."""
    mean = f'{{{{"score": {sum(items) / len(items)}, "items": {list(items)}}}}}'
    return f"cat {{data}}; echo '{mean}' > {{scores}}"


@pytest.mark.parametrize(
    ("command", "score"),
    [
        # Of two processes one takes the place of the other's score.
        (f"({shard(1, 1)}) & wait; {shard(1, 0)}", None),
        (shard(1, 1, 0), None),
        (shard(1, 1, 1, 0), 0.75),
        # Several questions to a record; a score alone; questions that the command has by itself.
        (shard(1, 1, 1, 1, 0), 0.8),
        ("cat {data}; echo '{{\"score\": 0.5}}' > {scores}", 0.5),
        (shard(1, 0).partition("; ")[2], 0.5),
    ],
)
def test_a_score_on_fewer_items_than_the_questions_is_refused(tmp_path, command, score):
    folder, file = tmp_path / "runs" / "key", tmp_path / "val.jsonl"
    folder.mkdir(parents=True)
    (tmp_path / "outputs" / "model").mkdir(parents=True)
    file.write_text('{"text": "why?"}\n' * 4)
    context = {"out": str(tmp_path), "folder": str(tmp_path), "file": str(file), "model": "model"}
    settings = {"command": command, "data": hashlib.sha256(file.read_bytes()).hexdigest(), "needs": {}}
    settings["context"] = {**context, "python_path": None, "items": 4}
    if score is not None:
        assert job.evaluate(settings, folder, lambda done: None)["score"] == score
        return
    message = (
        r"expected a score on each of the 4 records of .*val\.jsonl, got one on [23] items .* one process"
    )
    with pytest.raises(CommandError, match=message):
        job.evaluate(settings, folder, lambda done: None)


@pytest.mark.parametrize("when", ["before", "while it runs", "never"])
def test_evaluation_on_data_that_changes_is_refused(tmp_path, when):
    folder, file = tmp_path / "runs" / "key", tmp_path / "val.csv"
    folder.mkdir(parents=True)
    (tmp_path / "outputs" / "model").mkdir(parents=True)
    file.write_text("other\n" if when == "before" else "question\n")
    change = f"echo other > {file}; " if when == "while it runs" else ""
    command = change + "touch {output}/begun; echo '{{\"score\": 1}}' > {scores}"
    context = {"out": str(tmp_path), "folder": str(tmp_path), "file": str(file), "model": "model"}
    settings = {"command": command, "data": hashlib.sha256(b"question\n").hexdigest(), "needs": {}}
    settings["context"] = {**context, "python_path": None}
    if when == "never":
        assert job.evaluate(settings, folder, lambda done: None)["score"] == 1.0
        return
    with pytest.raises(CommandError, match=r"val\.csv: expected the file of .*it has changed since"):
        job.evaluate(settings, folder, lambda done: None)
    assert (tmp_path / "outputs" / "key" / "begun").exists() == (when == "while it runs")


@pytest.mark.parametrize("when", ["before", "while it runs", "never"])
def test_evaluation_of_a_model_that_exists_and_changes_is_refused(tmp_path, when):
    """One whose training still went on had the scores of several models in one row."""
    (folder := tmp_path / "runs" / "key").mkdir(parents=True)
    (model := tmp_path / "equal").mkdir()
    (model / "weights").write_text("of now")
    context = {"out": str(tmp_path), "folder": str(tmp_path), "file": None, "python_path": None}
    context |= {"model": str(model), "model_files": fingerprint(model, SECOND)}
    if when == "before":
        (model / "weights").write_text("of then, longer")
    command = "echo '{{\"score\": 1}}' > {scores}" + (
        "; touch {model}/new" if when == "while it runs" else ""
    )
    settings = {"command": command, "data": None, "needs": {}, "context": context}
    if when == "never":
        assert job.evaluate(settings, folder, lambda done: None)["score"] == 1
        return
    with pytest.raises(
        CommandError, match=r"equal: expected the model of the plan, but a file .* is new\. Wait"
    ):
        job.evaluate(settings, folder, lambda done: None)
    assert (folder / "scores.json").exists() == (when == "while it runs")


def test_training_that_fails_or_leaves_nothing_is_told(tmp_path):
    folder = tmp_path / "runs" / "key"
    folder.mkdir(parents=True)
    lines = [f"line {number}" for number in range(30)]
    (folder / "log.txt").write_text("\n".join(lines))
    end = "\n".join([f"; the end of {folder / 'log.txt'}:", *lines[-job.LOG_LINES :]])
    for command, message in (
        ("exit 1", f"the command ended with exit status 1{end}"),
        ("kill -9 $$", f"the command ended with signal 9{end}"),
        ("true", f"the command ended well but left {{output}} empty: {tmp_path / 'outputs' / 'key'}"),
    ):
        with pytest.raises(CommandError) as caught:
            job.train(training(tmp_path, command), folder, lambda done: None)
        assert str(caught.value) == message


def test_the_end_of_the_log_is_that_of_the_training_and_not_of_torchrun(tmp_path):
    folder = tmp_path / "runs" / "key"
    folder.mkdir(parents=True)
    (tmp_path / "train.py").write_text("raise ValueError('the reason')")
    command = f"{sys.executable} -m torch.distributed.run --master_port {{port}} {tmp_path / 'train.py'}"
    told = training(tmp_path, f"{command} > {folder / 'log.txt'} 2>&1")
    with pytest.raises(CommandError) as caught:
        job.train(told, folder, lambda done: None)
    assert "ValueError: the reason" in str(caught.value)
    assert "ChildFailedError" in (folder / "log.txt").read_text()
    # The next try's log goes on after it.
    told = training(tmp_path, f"echo another reason >> {folder / 'log.txt'}; exit 1")
    with pytest.raises(CommandError, match=r"ValueError: the reason(.*\n)+another reason$"):
        job.train(told, folder, lambda done: None)


@pytest.mark.parametrize(
    "command", ['echo "$COTBAL_WEIGHTS" > {output}/told', "python:weights_told:write to={output}/told"]
)
def test_weights_that_the_shell_names_are_no_runs(tmp_path, monkeypatch, command):
    """Probes of a command without {weights} were trained under them, and counted as those of weights 1."""
    monkeypatch.setenv("COTBAL_WEIGHTS", "weights.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "weights_told.py").write_text(
        "import os, pathlib\n"
        "def write(report, to):\n"
        "    pathlib.Path(to).write_text(os.environ.get('COTBAL_WEIGHTS', ''))\n"
    )
    folder = tmp_path / "runs" / "key"
    folder.mkdir(parents=True)
    job.train(training(tmp_path, command), folder, lambda done: None)
    assert (tmp_path / "outputs" / "key" / "told").read_text().strip() == ""


def test_training_has_its_rule_and_a_free_port_and_leaves_no_process(tmp_path):
    folder = tmp_path / "runs" / "key"
    folder.mkdir(parents=True)
    settings = training(tmp_path, "sleep 60 & cp {weights} {output}/weights; echo {port} > {output}/port")
    job.train({**settings, "rule": {"rule": "TLA"}}, folder, lambda done: None)
    assert processes.alive(folder) == []
    assert json.loads((tmp_path / "outputs" / "key" / "weights").read_text()) == {"rule": "TLA"}
    assert int((tmp_path / "outputs" / "key" / "port").read_text()) > 0


def test_progress_is_told_while_the_command_runs(tmp_path, monkeypatch):
    folder, told = tmp_path / "runs" / "key", []
    folder.mkdir(parents=True)
    monkeypatch.setattr(job, "LOOK_SECONDS", 0.0)
    settings = training(tmp_path, f"echo '2/4 [' > {folder / 'log.txt'}; sleep 0.4; touch {{output}}/model")
    job.train(settings, folder, told.append)
    assert told[-1] == 4
