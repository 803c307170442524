"""Format `llava`: what LLaVA v1.5's own evaluation (llava 1.2) leaves on disk.

- Answers of llava/eval/model_vqa_loader.py, model_vqa.py and model_vqa_science.py: JSONL of `{"question_id",
  "prompt", "text", "answer_id", "model_id", "metadata"}`. They are scored here against `truth`, metric EM,
  CIDEr, Acc@IoU or mIoU. One file per GPU: `from=answers/SPLIT/CKPT/4_*.jsonl parts=4`, or the script's
  merge.jsonl.
- ScienceQA, llava/eval/eval_science_qa.py: metric `acc`. Its `--output-file`, JSON of `{"correct": [...],
  "incorrect": [...]}`, gives a 0/1 item per `question_id`; its `--output-result`, `{"acc", "correct",
  "count", "results", "outputs"}`, gives `acc` in percent without items.
- Reviews of llava/eval/eval_gpt_review_bench.py: JSONL with `question_id` and `tuple`, the judge's scores of
  the reference and of the model. Metric `review` is the mean of the model's (0..10); `relative`,
  LLaVA-Bench's printed 100 x mean / mean, is no mean over items and has none.

eval_textvqa.py and eval_pope.py print their scores and write no file.
"""

from pathlib import Path
from statistics import fmean

from cotbal.collect.found import Found
from cotbal.collect.locate import PARTS, find_files
from cotbal.collect.predictions import parts
from cotbal.collect.records import Record, by_id, read_json, read_records
from cotbal.collect.scoring import METRICS
from cotbal.collect.source import Source
from cotbal.collect.truth import TRUTH_OPTIONS, own_rules, score_against_truth

OPTIONS = {**PARTS, **TRUTH_OPTIONS}
_FILED = ("acc", "review", "relative")


def read(folder: Path, source: Source, run: str) -> Found:
    """Return the items or the score of a run by LLaVA's own evaluation."""
    if source.metric not in (*METRICS, *_FILED):
        raise ValueError(
            f"{source}: metric: expected one of {', '.join((*METRICS, *_FILED))}, got {source.metric!r}"
        )
    if source.metric == "acc":
        return _science_qa(find_files(folder, source.name)[0])
    files = find_files(folder, source.name, parts=parts(source))
    if source.metric in _FILED:
        return _reviews(files, source.metric)
    rules = own_rules(source)
    records = by_id([record for file in files for record in read_records(file)], "question_id")
    answers = {key: record.text("text") for key, record in records.items()}
    return score_against_truth(source, answers, files, rules)


def _science_qa(file: Path) -> Found:
    content = read_json(file)
    if isinstance(content, dict) and "acc" in content:
        score = Record(file, "the object", content).number("acc")
        return Found((file,), score=score, higher_is_better=True, number=content.get("count"))
    if not isinstance(content, dict) or not all(
        isinstance(content.get(k), list) for k in ("correct", "incorrect")
    ):
        raise ValueError(
            f"{file}: expected the lists 'correct' and 'incorrect', or 'acc', of eval_science_qa.py"
        )
    records = [
        Record(file, f"{key} {place}", {**fields, "right": key == "correct"})
        for key in ("correct", "incorrect")
        for place, fields in enumerate(content[key], start=1)
    ]
    if not records:
        raise ValueError(f"{file}: expected at least one answer, got none")
    items = {key: record.number("right") for key, record in by_id(records, "question_id").items()}
    return Found((file,), items=items, higher_is_better=True)


def _reviews(files: list[Path], metric: str) -> Found:
    records = by_id([record for file in files for record in read_records(file)], "question_id")
    pairs = {key: _pair(record) for key, record in records.items()}
    if metric == "review":
        return Found(
            tuple(files), items={key: model for key, (_, model) in pairs.items()}, higher_is_better=True
        )
    reference = fmean(first for first, _ in pairs.values())
    if reference == 0:
        raise ValueError(
            f"{files[0]}: field 'tuple': the reference's scores are all 0, nothing is relative to them"
        )
    score = 100 * fmean(model for _, model in pairs.values()) / reference
    return Found(tuple(files), score=score, higher_is_better=True, number=len(pairs))


def _pair(record: Record) -> tuple[float, float]:
    value = record.fields.get("tuple")
    # The script writes [-1, -1] where it could not read the judge's text.
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(type(x) in (int, float) and x >= 0 for x in value)
    ):
        raise record.error("tuple", "two scores >= 0; review that question again")
    return float(value[0]), float(value[1])
