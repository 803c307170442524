"""From the publishers' files to per-item scores: prepare, mix, LLaVA's own training, generation, scores."""

import importlib.util
import json
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from cotbal.collect import collect, parse_source
from cotbal.collect.one_model import score_file, write_scores, write_upload
from cotbal.collect.scoring import TASK_METRICS
from cotbal.data.mix import find_prepared, write_mix
from cotbal.data.table1 import TABLE, VQA_INSTRUCTION
from cotbal.estimate.items_json import read_items, write_items
from cotbal.integrations.llava import generate
from cotbal.metrics import cider
from cotbal.project.job import read_score
from tests.data import prepared
from tests.data.reading import inputs, rows
from tests.integrations.llava.cases import Case
from tests.integrations.llava.entry_runs import own_words, run_alone
from tests.integrations.llava.launch import run
from tests.integrations.llava.world import World

# torch's deprecations in the code of LLaVA and transformers.
pytestmark = pytest.mark.filterwarnings("ignore")
VISUAL = [task for task in TABLE if task != "ShareGPT"]


def mixed(folder: Path) -> Path:
    """The mixture of the paper's eight tasks, small, with a picture wherever one is named; and checked."""
    prepared.everything(folder / "sources", folder / "data")
    mixture = folder / "mixture"
    write_mix(find_prepared(folder / "data"), mixture, inputs(), ratio=Fraction(1, 4))
    records = json.loads((mixture / "mixture.json").read_text())
    asked = [
        row for kind in ("validation", "test") for path in (mixture / kind).iterdir() for row in rows(path)
    ]
    names = sorted({each["image"] for each in (*records, *asked) if "image" in each})
    for number, name in enumerate(names):
        draw(folder / "images" / name, number)
    check(mixture, folder / "images")
    return mixture


def draw(path: Path, number: int) -> None:
    """A picture unlike any other, of the size that RefCOCO's annotations give it."""
    odd = int("".join(filter(str.isdecimal, path.stem))[-3:] or 0) % 2
    picture = Image.new("RGB", (200, 100) if odd else (100, 160), prepared.colour(number))
    picture.paste((number, 255 - number, 7 * number % 256), (0, 0, 40, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def check(mixture: Path, images: Path) -> None:
    """What `cotbal data check` says of it, where that is there: no error, no box outside its picture."""
    if importlib.util.find_spec("cotbal.data.check") is None:
        return
    from cotbal.data.check.run import Check
    from cotbal.data.check.schema import Settings
    from cotbal.data.check.sources import find_sources

    found = Check(find_sources([mixture], []), inputs(), Settings(), images=images)
    found.run()
    assert found.content()["errors"] == {}, list(found.findings.lines())[:3]
    assert found.pictures > 100
    assert not {"box-in-padding", "copied-picture", "leaked-picture"} & found.content()["warnings"].keys()


def train(world: World, mixture: Path, output: Path, data: str, steps: int) -> Path:
    """LLaVA's own training of a file of the mixture, with a weight for each task, by its command."""
    weights = output.parent / f"{output.name}.json"
    tasks = {record["task"] for record in json.loads((mixture / data).read_text())}
    weights.write_text(json.dumps({task: 1.0 + 0.25 * place for place, task in enumerate(sorted(tasks))}))
    options = {
        "data_path": mixture / data,
        "image_folder": mixture.parent / "images",
        "model_max_length": 512,
    }
    options |= {"max_steps": steps, "optim": "adamw_torch", "learning_rate": 3e-3}
    done = run_alone("--weights", weights, "--", *own_words(world, output, **options))
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(f"{task} " in done.stdout for task in tasks)
    return output


def ask(model: Path, questions: Path, images: Path, out: Path) -> Path:
    words = ["--model", model, "--questions", questions, "--image-folder", images, "--out", out]
    words += ["--batch-size", 8, "--max-new-tokens", 12, "--workers", 0]
    assert generate.main([str(word) for word in words]) == 0
    return out


def test_one_task_trained_in_this_process(world: World, tmp_path: Path) -> None:
    mixture, images = mixed(tmp_path), tmp_path / "images"
    options = {"data_path": mixture / "mini.json", "image_folder": images, "model_max_length": 512}
    weights = dict.fromkeys(VISUAL, 1.0) | {"GQA": 3.0}
    recording = run(Case("mini", options | {"max_steps": 2}, weights=weights), world, tmp_path)
    assert not recording.error, recording.error
    questions = mixture / "validation" / "RefCOCO-caption.jsonl"
    answers = ask(tmp_path / "mini" / "output", questions, images, tmp_path / "answers.jsonl")
    scored = score_file(questions, answers)
    references = [row["answer"] for row in rows(questions)]
    assert scored.items == cider([row["text"] for row in rows(answers)], references)
    assert (scored.task, scored.metric, len(scored.items)) == ("RefCOCO-caption", "CIDEr", len(references))


@pytest.mark.full
def test_from_the_publishers_files_to_scores_items_and_the_table(world: World, tmp_path: Path) -> None:
    mixture = mixed(tmp_path)
    images = tmp_path / "images"
    models = {
        "mini": train(world, mixture, tmp_path / "mini", "mini.json", 4),
        # GQA's answers are yes or no: these few steps teach that much.
        "GQA": train(world, mixture, tmp_path / "probe", "probes/GQA.json", 40),
        "VQAv2": train(world, mixture, tmp_path / "final", "mixture.json", 10),
    }
    for name, model in models.items():
        for task in ("GQA", "VQAv2"):
            questions = mixture / "validation" / f"{task}.jsonl"
            ask(model, questions, images, tmp_path / "answers" / name / f"{task}.jsonl")
    texts = [
        f"{t}: format=predictions from={t}.jsonl truth={mixture}/validation/{t}.jsonl"
        for t in ("GQA", "VQAv2")
    ]
    folders = {name: tmp_path / "answers" / name for name in models}
    table = collect(folders, [parse_source(text) for text in texts])
    write_items(tmp_path / "items.json", table.scores.items, table.scores.clusters)
    assert set(read_items(tmp_path / "items.json").items["GQA"]) == {"GQA", "VQAv2"}
    assert table.scores.probes[0, 0] > max(0.3, table.scores.mini[0])
    everything(models["VQAv2"], mixture, images, tmp_path)


def everything(model: Path, mixture: Path, images: Path, folder: Path) -> None:
    """All held-out files of all seven visual tasks with the last model: a score with items, or an upload."""
    seen = set()
    for path in [*(mixture / "validation").iterdir(), *(mixture / "test").iterdir()]:
        asked = rows(path)
        answers = ask(model, path, images, folder / "out" / path.parent.name / path.name)
        assert [row["question_id"] for row in rows(answers)] == [row["question_id"] for row in asked]
        if asked[0]["task"] in ("VQAv2", "GQA", "ChartQA", "OCRVQA"):
            assert all(row["text"].endswith(f"\n{VQA_INSTRUCTION}") for row in asked)
        if "answer" not in asked[0]:
            assert write_upload(folder / "upload.json", path, answers) == (len(asked), 0)
            assert {row["question_id"] for row in json.loads((folder / "upload.json").read_text())} == {
                int(row["question_id"]) for row in asked
            }
            continue
        scored = score_file(path, answers)
        write_scores(folder / "scores.json", scored)
        read = read_score(folder / "scores.json")
        assert (read["score"], read["items"]) == (scored.score, scored.items)
        pictures = [row["image"] for row in asked]
        assert len(set(zip(read.get("clusters", pictures), pictures, strict=True))) == len(set(pictures))
        assert (len(scored.items), scored.metric) == (len(asked), TASK_METRICS[asked[0]["task"]])
        seen.add((scored.task, path.parent.name))
    assert seen == {(task, kind) for task in VISUAL for kind in ("validation", "test")} - {("VQAv2", "test")}
