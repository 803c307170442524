import copy
import json

import pytest
import yaml

from cotbal.project import recipe_files
from cotbal.project.config import Project, load_project
from cotbal.project.resources import Resources
from tests.project.toy import content


def load(folder, value):
    path = folder / "toy.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False))
    return load_project(path)


def mappings(value, place=()):
    """Every mapping in the file with the place where it is."""
    if isinstance(value, dict):
        yield place
        for key, inner in value.items():
            yield from mappings(inner, (*place, key))


@pytest.mark.parametrize("place", [p for p in mappings(content(None)) if p != ("tasks",)], ids=".".join)
def test_every_key_misspelt_anywhere_is_named_with_its_line_and_the_key_that_was_meant(tmp_path, place):
    for key in list(at(content(tmp_path), place)):
        value = content(tmp_path)
        wrong = {(f"{k}x" if k == key else k): v for k, v in at(value, place).items()}
        if place:
            at(value, place[:-1])[place[-1]] = wrong
        else:
            value = wrong
        with pytest.raises(ValueError, match=f"did you mean {key!r}") as caught:
            load(tmp_path, value)
        lines = (tmp_path / "toy.yaml").read_text().splitlines()
        (line,) = [number for number, text in enumerate(lines, 1) if text.lstrip().startswith(f"{key}x:")]
        assert str(caught.value).startswith(
            f"{tmp_path / 'toy.yaml'}, line {line}: {'.'.join((*place, key))}x: "
        )


def at(value, place):
    for step in place:
        value = value[step]
    return value


def changed(place, new):
    def change(value):
        *before, last = place
        at(value, before)[last] = new
        return value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(["temperature"], 0), "temperature: input should be greater than 0, got 0"),
        (changed(["temperature"], True), "temperature: input should be a valid number, got True"),
        (changed(["temperature"], float("nan")), "temperature: input should be"),
        (changed(["alpha"], 1.5), "alpha: input should be less than or equal to 1, got 1.5"),
        (
            changed(["mini_ratio"], "32"),
            "mini_ratio: expected a share between 0 and 1 such as 1/32, got '32'",
        ),
        (changed(["mini_ratio"], "1/0"), "mini_ratio: expected a share"),
        (changed(["mini_ratio"], 0), "mini_ratio: expected a share"),
        (changed(["mini_ratio"], 1), "mini_ratio: expected a share"),
        (changed(["rule"], "coral"), "rule: expected one of cotbal, "),
        (changed(["seeds"], []), "seeds: list should have at least 1 item"),
        (changed(["seeds"], [1, 1]), "seeds: expected each once"),
        (changed(["on_unidentified"], "ignore"), "on_unidentified: input should be 'raise' or 'drop'"),
        (changed(["schema_version"], 2), "schema_version: input should be 1"),
        (changed(["tasks", "a", "better"], "lower"), "tasks.a: better: lower needs a transform"),
        (changed(["tasks", "a", "transform"], "reciprocal"), "tasks.a: a transform belongs to better: lower"),
        (
            changed(["tasks", "a"], {"train": "x", "better": "lower", "transform": "minus"}),
            "tasks.a: transforms",
        ),
        (changed(["tasks", "a", "weight"], -1), "tasks.a.weight: input should be greater"),
        (changed(["tasks", "a", "train"], []), "tasks.a.train: expected a file or a list of files"),
        (
            changed(["tasks", "a", "train"], 3),
            "tasks.a.train: input should be a valid string, got 3; write it in quotes",
        ),
        (
            changed(["tasks", "a", "train"], ["x.json", "d/../x.json"]),
            "tasks.a: train: expected each file once, got x.json, d/../x.json",
        ),
        (
            changed(["tasks", "a", "validation"], "./a.json"),
            "tasks.a: validation: expected a file that is not in train, got ./a.json",
        ),
        (
            changed(["tasks", "a", "validation"], "d/../b.jsonl"),
            "tasks: expected a validation file of 'a' that no task trains on, got d/../b.jsonl",
        ),
        (changed(["tasks", "mini"], {"train": "x"}), "tasks: expected a task name"),
        (changed(["tasks", "x/y"], {"train": "x"}), "tasks: expected a task name"),
        (
            changed(["tasks", "A"], {"train": "x"}),
            "tasks: expected task names that differ in more than case, got 'a' and 'A'",
        ),
        (
            changed(["tasks"], {"a": {"train": "x"}}),
            "tasks: expected at least two tasks without a fixed weight",
        ),
        (changed(["train"], {}), "train.command: this key is missing"),
        (changed(["train", "command"], "t {data}"), "train.command: expected the placeholder {output}"),
        (
            changed(["train", "command"], "t {data} {outptu}"),
            "unknown placeholder {outptu}; did you mean {output}?",
        ),
        (changed(["train", "command"], "t {data {output}"), "train.command: expected {placeholders}"),
        (
            changed(["train", "command"], "t {data} {output} {steps}"),
            "train: the command has {steps}: it needs",
        ),
        (
            changed(["evaluate", "command"], "e {model}"),
            "evaluate.command: expected the placeholder {scores}",
        ),
        (changed(["evaluate", "command"], "e {model} {scores} {weights}"), "unknown placeholder {weights}"),
        (changed(["step_matched"], True), "step_matched: it needs {steps} in train.command"),
        (
            changed(["evaluate"], {"command": "e {model} {scores} {gpus}"}),
            "resources: a command has {gpus}, which is 0 without resources.gpus; add `resources: {gpus: 1}`",
        ),
        (
            changed(["train", "probe_command"], "t {data}"),
            "train.probe_command: expected the placeholder {output}",
        ),
        (
            changed(["train", "probe_command"], "t {data} {output} {steps}"),
            "train: the command has {steps}: it needs",
        ),
        (
            changed(["evaluate", "probe_command"], "e {model} {scores}"),
            "evaluate.probe_command: it scores the models of train.probe_command; give both",
        ),
        (changed(["resources"], {"gpus": 2, "gpus_per_run": 4}), "resources: gpus_per_run: expected at most"),
        (changed(["resources"], {"gpus": 2, "gpus_per_run": 0}), "resources: gpus_per_run: expected at most"),
        (changed(["resources"], {"executor": "slurm"}), "resources: executor: slurm needs slurm: {hours:"),
        (
            changed(["resources"], {"executor": "pbs"}),
            "resources.executor: input should be 'local' or 'slurm'",
        ),
        (
            changed(["resources"], {"executor": "slurm", "gpus": 2, "slurm": {"hours": 1}}),
            "resources: gpus are those of this machine; a job of Slurm has gpus_per_run",
        ),
        (changed(["resources"], {"slurm": {"hours": 0}}), "resources.slurm.hours: input should be greater"),
        (
            changed(["resources"], {"slurm": {"hours": 1, "qos": "high"}}),
            "resources.slurm.qos: unknown key; Known keys: hours, partition",
        ),
        (
            changed(["resources"], {"slurm": {"hours": 1, "options": {"time": "1:00:00"}}}),
            "resources.slurm.options: time: there is the key slurm.hours",
        ),
        (
            changed(["resources"], {"slurm": {"hours": 1, "options": {"clusters": "x"}}}),
            "resources.slurm.options: clusters: set SLURM_CLUSTERS in the environment",
        ),
        (
            changed(["resources"], {"slurm": {"hours": 1, "options": {"job_name": "x"}}}),
            "resources.slurm.options: job_name: cotbal sets it itself",
        ),
        (changed(["resources", "slots"], 0), "resources.slots: input should be greater than or equal to 1"),
    ],
)
def test_value_that_does_not_fit_is_told_with_its_place(tmp_path, change, message):
    with pytest.raises(ValueError, match=r"toy.yaml, line \d+") as caught:
        load(tmp_path, change(content(tmp_path)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_item_of_a_list_is_told_with_its_line(tmp_path):
    text = yaml.safe_dump(content(tmp_path, seeds=[0, "x", 2]))
    line = text.splitlines().index("- x") + 1
    with pytest.raises(ValueError, match=rf"line {line}: seeds\.1: input should be a valid integer"):
        load(tmp_path, text)


def test_sentence_of_ones_own_is_told_as_it_is(tmp_path):
    """Without the value, which may be the whole file."""
    with pytest.raises(ValueError, match=r"line 1: step_matched: it needs \{steps\} in train\.command$"):
        load(tmp_path, content(tmp_path, step_matched=True))


def test_several_seeds_need_the_seed_in_the_command(tmp_path):
    value = content(tmp_path, seeds=[0, 1], train={"command": "t {data} {output}"})
    with pytest.raises(ValueError, match=r"several need \{seed\}"):
        load(tmp_path, value)


def test_validation_file_is_asked_for_where_the_command_uses_it(tmp_path):
    value = content(tmp_path, evaluate={"command": "e {model} {data} {scores}"})
    del value["tasks"]["b"]["validation"]
    with pytest.raises(ValueError, match=r"tasks.b: the evaluation command has \{data\}"):
        load(tmp_path, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1: expected YAML"),
        ("a: \x07", "toy.yaml: expected YAML, got unacceptable character #x0007"),
        ("output: a\nbase_model: b\noutput: c", "line 3: output stands twice; keep one"),
        ("tasks:\n  a: {train: x}\n  a: {train: y}", "line 3: tasks.a stands twice"),
        ("seeds:\n- 0\n- a: 1\n  a: 2", "line 4: seeds.1.a stands twice"),
        ("- 1", "toy.yaml: expected the YAML of an estimate"),
        ("", "output: this key is missing (and 4 more mistakes)"),
    ],
)
def test_file_that_is_no_such_yaml(tmp_path, text, message):
    with pytest.raises(ValueError, match=r"toy\.yaml") as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


def test_paths_are_those_of_the_file_s_folder(tmp_path):
    project = load(tmp_path, content(tmp_path))
    assert project.out == tmp_path / "out"
    assert project.fixed == {"chat": 1.5}
    assert project.weighted == ["a", "b", "c"]
    assert str(project.ratio) == "1/8"


def test_home_folder_is_written_as_in_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    value = content(tmp_path) | {"output": "~/est", "base_model": "~/models/base"}
    task = next(iter(value["tasks"].values()))
    task["train"] = ["~/a.json", "b.json"]
    project = load(tmp_path, value)
    assert (str(project.out), project.base_model) == ("/home/ann/est", "/home/ann/models/base")
    assert next(iter(project.tasks.values())).train == ["/home/ann/a.json", "b.json"]


def test_command_has_the_gpus_of_a_run_where_there_are_any():
    assert Resources(gpus_per_run=2).gpus_of_a_command == 0
    assert Resources(gpus=4, gpus_per_run=2).gpus_of_a_command == 2
    assert Resources(executor="slurm", gpus_per_run=2, slurm={"hours": 1}).gpus_of_a_command == 2
    assert Resources(executor="slurm", gpus_per_run=0, slurm={"hours": 1}).gpus_of_a_command == 0


def test_gpus_are_dealt_out_in_groups():
    assert Resources(gpus=8, gpus_per_run=4).environments(None) == [
        {"CUDA_VISIBLE_DEVICES": "0,1,2,3"},
        {"CUDA_VISIBLE_DEVICES": "4,5,6,7"},
    ]
    assert Resources(gpus=[5, 3, 1], gpus_per_run=2).environments("0") == [{"CUDA_VISIBLE_DEVICES": "5,3"}]
    assert Resources(gpus=2).environments("6,7") == [{"CUDA_VISIBLE_DEVICES": n} for n in "67"]
    assert Resources(slots=3).environments(None) == [{}, {}, {}]
    with pytest.raises(ValueError, match="expected at most 1 as in CUDA_VISIBLE_DEVICES, got 2"):
        Resources(gpus=2).environments("6")


@pytest.mark.parametrize("path", recipe_files(), ids=lambda path: path.name)
def test_ready_made_files_are_valid_and_use_the_whole_machine(path):
    project = load_project(path)
    assert len(project.weighted) >= 3
    assert project.fixed
    used = [group.get("CUDA_VISIBLE_DEVICES") for group in project.resources.environments(None)]
    assert used == [None, None] if path.name == "digits.yaml" else ",".join(used) == "0,1,2,3,4,5,6,7"


def test_the_ready_made_files():
    names = [path.name for path in recipe_files()]
    assert names == ["digits.yaml", "huggingface.yaml", "llamafactory.yaml", "llava.yaml", "swift.yaml"]


def test_project_is_not_changed_by_reading_it_back(tmp_path):
    project = load(tmp_path, content(tmp_path))
    again = Project.model_validate(json.loads(json.dumps(copy.deepcopy(project.model_dump()))))
    assert again.model_dump() == project.model_dump()


def test_a_file_that_is_not_utf8_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_bytes(b"output: \xe5\n")
    with pytest.raises(ValueError, match=r"toy.yaml: expected text in UTF-8, got the byte 0xe5; save it"):
        load_project(path)


def test_a_folder_whose_path_is_no_utf_8_is_refused(tmp_path):
    folder = tmp_path / "lat\udce9"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"expected a folder whose path is UTF-8, got .*lat.udce9; give it"):
        load(folder, content(tmp_path))


def test_a_value_is_told_by_its_beginning(tmp_path):
    """A file of records went to the terminal whole."""
    value = content(tmp_path)
    value["train"] = [{"id": n} for n in range(900)]
    with pytest.raises(ValueError, match=r"train: input should be .*, got \[\{'id': 0\}.*\.\.\.$") as caught:
        load(tmp_path, value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 250
    with pytest.raises(
        ValueError, match=r"toy.yaml: expected the YAML of an estimate, .* got a list, \[\{'id'"
    ) as caught:
        load(tmp_path, json.dumps([{"id": n} for n in range(900)]))
    assert len(str(caught.value)) < len(str(tmp_path)) + 350


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"budget": "1000"},
            "--budget: expected a number of GPU-hours or samples such as '80 GPU-hours', got",
        ),
        ({"mode": "Cheap"}, "--mode: input should be 'full', 'cheap' or 'no-probes', got 'Cheap'"),
    ],
)
def test_an_option_is_blamed_for_its_own_value(tmp_path, option, message):
    load(tmp_path, content(tmp_path))
    with pytest.raises(ValueError, match=rf"^{message}"):
        load_project(tmp_path / "toy.yaml", **option)


@pytest.mark.parametrize(("key", "read"), [("on", "True"), ("2", "2"), ("2024-01-01", "datetime.date")])
def test_a_task_whose_name_yaml_takes_for_something_else_needs_quotes(tmp_path, key, read):
    text = yaml.safe_dump(content(tmp_path), sort_keys=False)
    with pytest.raises(ValueError, match=rf"tasks: input .* string, got {read}.*; write it in quotes$"):
        load(tmp_path, text.replace("\n  a:\n", f"\n  {key}:\n"))
    assert key in load(tmp_path, text.replace("\n  a:\n", f"\n  '{key}':\n")).tasks
    with pytest.raises(ValueError, match=r"base_model: input should be a valid string, got None$"):
        load(tmp_path, content(tmp_path, base_model=None))
