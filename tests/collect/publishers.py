"""Result files field for field as their tools write them, for items that are right or wrong.

An item is (id, image, right answer, the run's answer). Each writer puts a run's files into its folder and
returns the text that declares the source, less the task.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Item(NamedTuple):
    id: int
    image: str
    truth: str
    answer: str

    @property
    def right(self) -> float:
        return float(self.truth == self.answer)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))
    return path


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return path


def truth_file(folder: Path, items: Sequence[Item]) -> Path:
    """LLaVA's question file with its answers, kept beside the runs."""
    rows = [{"question_id": i.id, "image": i.image, "text": "What?", "answer": i.truth} for i in items]
    return write_jsonl(folder.parent / "truth.jsonl", rows)


def predictions(folder: Path, items: Sequence[Item]) -> str:
    """VQAv2's upload file (scripts/convert_vqav2_for_submission.py)."""
    write_json(folder / "upload.json", [{"question_id": i.id, "answer": i.answer} for i in items])
    return f"format=predictions from=upload.json metric=EM truth={truth_file(folder, items)}"


def llava(folder: Path, items: Sequence[Item]) -> str:
    """llava/eval/model_vqa_loader.py, one file per GPU."""
    for part in (0, 1):
        rows = [
            {
                "question_id": i.id,
                "prompt": "What?\nAnswer the question using a single word or phrase.",
                "text": i.answer,
                "answer_id": f"id{i.id}",
                "model_id": "llava-v1.5-7b",
                "metadata": {},
            }
            for i in items[part::2]
        ]
        write_jsonl(folder / f"2_{part}.jsonl", rows)
    return f"format=llava from='2_*.jsonl' parts=2 metric=EM truth={truth_file(folder, items)}"


def visatb(folder: Path, items: Sequence[Item]) -> str:
    """inference_visatb.py."""
    rows = [
        {
            "id": str(i.id),
            "image": i.image,
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat {i.id}?"},
                {"from": "gpt", "value": i.truth, "generative_value": i.answer},
            ],
            "generator": "llava-vqa-mini",
        }
        for i in items
    ]
    write_json(folder / "vqa-val-6_llava-vqa-mini.json", rows)
    return "format=visatb from='vqa-val-6_*.json' metric=EM"


def lmms_eval(folder: Path, items: Sequence[Item], **changes: Any) -> str:
    """lmms-eval 0.7: the aggregated results and the samples; `changes` go into the task's results."""
    model = folder / "liuhaotian__llava-v1.5-7b"
    score = sum(i.right for i in items) / len(items)
    results = {
        "alias": "vqav2_val_lite",
        "exact_match,none": score,
        "samples": len(items),
        "exact_match_stderr,none": 0.1,
        "exact_match_stderr_clt,none": 0.1,
        "exact_match_stderr_clustered,none": "N/A",
        "submission,none": None,
        "submission_stderr,none": None,
    }
    content = {
        "results": {"vqav2_val_lite": results | changes},
        "group_subtasks": {"vqav2_val_lite": []},
        "configs": {"vqav2_val_lite": {"task": "vqav2_val_lite", "metric_list": [{"metric": "exact_match"}]}},
        "versions": {"vqav2_val_lite": "Yaml"},
        "n-shot": {"vqav2_val_lite": 0},
        "higher_is_better": {"vqav2_val_lite": {"exact_match": True}},
        "n-samples": {"vqav2_val_lite": {"original": len(items), "effective": len(items)}},
        "config": {"model": "llava", "model_args": "pretrained=liuhaotian/llava-v1.5-7b"},
        "git_hash": "75571cf",
        "date": "20260806_102223",
        "task_hashes": {},
        "model_source": "llava",
        "model_name": "liuhaotian/llava-v1.5-7b",
        "total_evaluation_time_seconds": "12.5",
    }
    write_json(model / "20260806_102223_results.json", content)
    write_jsonl(model / "20260806_102223_samples_vqav2_val_lite.jsonl", [_sample(i) for i in items])
    return "format=lmms-eval from=vqav2_val_lite metric=exact_match"


def _sample(item: Item) -> dict[str, Any]:
    return {
        "doc_id": item.id,
        "target": item.truth,
        "filtered_resps": item.answer,
        "token_counts": [{"output_tokens": 2}],
        # It has no document to hash.
        "doc_hash": hashlib.sha256(b"null").hexdigest(),
        "exact_match": item.right,
        "submission": {"question_id": item.id, "answer": item.answer},
        "input": "What?\nAnswer the question using a single word or phrase.",
    }


def vlmevalkit(folder: Path, items: Sequence[Item], *, detail: str = "tsv") -> str:
    """VLMEvalKit's short answers (ImageVQADataset), with the links that run.py makes beside its folder."""
    run = folder / "llava_v1.5_7b" / "T20260818_Ge8e78f05"
    rows = [
        {
            "index": i.id,
            "question": "What?",
            "answer": i.truth,
            "prediction": i.answer,
            "eval_gt": f"['{i.truth}']",
            "eval_pred": i.answer,
            "eval_match": f"[{i.right}]",
            "eval_score": i.right,
        }
        for i in items
    ]
    name = f"llava_v1.5_7b_OCRVQA_TESTCORE_results.{detail}"
    (write_json if detail == "json" else write_table)(run / name, rows)
    score = {"Overall": 100 * sum(i.right for i in items) / len(items)}
    write_table(run / "llava_v1.5_7b_OCRVQA_TESTCORE_acc.csv", [score])
    for file in run.iterdir():
        link = run.parent / file.name
        if not link.is_symlink():
            link.symlink_to(file.relative_to(run.parent))
    return "format=vlmevalkit from=OCRVQA_TESTCORE metric=Overall better=higher"


def csv_items(folder: Path, items: Sequence[Item]) -> str:
    """A table of the user's."""
    rows = [{"id": i.id, "image": i.image, "EM": i.right} for i in items]
    write_table(folder / "vqa.csv", rows)
    return "format=csv from=vqa.csv metric=EM better=higher"


WRITERS = {
    writer.__name__: writer for writer in (predictions, llava, visatb, lmms_eval, vlmevalkit, csv_items)
}
