"""Annotation files field for field as their publishers release them, small."""

import json
import pickle
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def vqav2(folder: Path, split: str, questions: list[tuple[int, int, str, str]]) -> None:
    """(question_id, image_id, question, answer); the annotations stand in the opposite order."""
    license = {
        "url": "http://creativecommons.org/licenses/by/4.0/",
        "name": "Creative Commons Attribution 4.0",
    }
    info = {"description": "This is v2.0 of the VQA dataset.", "version": "2.0", "year": 2017}
    head = {"info": info, "task_type": "Open-Ended", "data_type": "mscoco", "license": license}
    asked = [{"image_id": i, "question": q, "question_id": id} for id, i, q, _ in questions]
    head |= {"data_subtype": split}
    write_json(folder / f"v2_OpenEnded_mscoco_{split}_questions.json", head | {"questions": asked})
    if split.startswith("test"):
        return
    people = [
        {
            "question_type": "what is",
            "multiple_choice_answer": answer,
            "answers": [
                {"answer": answer if n < 8 else "maybe", "answer_confidence": "yes", "answer_id": n + 1}
                for n in range(10)
            ],
            "image_id": image_id,
            "answer_type": "other",
            "question_id": id,
        }
        for id, image_id, _, answer in reversed(questions)
    ]
    write_json(folder / f"v2_mscoco_{split}_annotations.json", head | {"annotations": people})


def gqa(folder: Path, split: str, questions: list[tuple[str, str, str, str]]) -> None:
    """(id, imageId, question, answer)."""
    content = {
        id: {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "wall (722332)"}],
            "entailed": [],
            "equivalent": [id],
            "question": question,
            "imageId": image,
            "isBalanced": True,
            "groups": {"global": "height", "local": "09-wall_height"},
            "answer": answer,
            "semanticStr": "select: wall (722332)",
            "annotations": {"answer": {}, "question": {"4": "722332"}, "fullAnswer": {}},
            "types": {"detailed": "categoryRelS", "semantic": "rel", "structural": "query"},
            "fullAnswer": f"It is {answer}.",
        }
        for id, image, question, answer in questions
    }
    write_json(folder / f"{split}_balanced_questions.json", content)


def chartqa(folder: Path, split: str, human: list[tuple[str, str, str]], augmented: list[Any]) -> None:
    """(imgname, query, label)."""
    for kind, rows in (("human", human), ("augmented", augmented)):
        content = [{"imgname": name, "query": query, "label": label} for name, query, label in rows]
        write_json(folder / split / f"{split}_{kind}.json", content)


def ocrvqa(path: Path, books: dict[str, tuple[int, list[tuple[str, str]]]]) -> Path:
    """By id: split, and questions with their answers."""
    content = {
        id: {
            "imageURL": f"http://ecx.images-amazon.com/images/I/51{id}.jpg",
            "questions": [question for question, _ in turns],
            "answers": [answer for _, answer in turns],
            "title": "A Book",
            "authorName": "An Author",
            "genre": "Children's Books",
            "split": split,
        }
        for id, (split, turns) in books.items()
    }
    return write_json(path, content)


def ref(number: int, image_id: int, split: str, sentences: list[tuple[int, str]]) -> dict[str, Any]:
    return {
        "sent_ids": [id for id, _ in sentences],
        "file_name": f"COCO_train2014_{image_id:012d}_{number}.jpg",
        "ann_id": 1000 + number,
        "ref_id": number,
        "image_id": image_id,
        "split": split,
        "sentences": [
            {"tokens": text.split(), "raw": text.upper(), "sent_id": id, "sent": text}
            for id, text in sentences
        ],
        "category_id": 1,
    }


def refcoco(
    folder: Path, refs: list[dict[str, Any]], sizes: dict[int, tuple[int, int]], boxes: dict[int, list[float]]
) -> Path:
    """`sizes` by image_id, `boxes` by ref_id; the pickle is as Python 2 wrote it."""
    images = [
        {
            "license": 1,
            "file_name": f"COCO_train2014_{id:012d}.jpg",
            "coco_url": f"http://mscoco.org/images/{id}",
            "height": height,
            "width": width,
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": "http://farm9.staticflickr.com/8186/1.jpg",
            "id": id,
        }
        for id, (width, height) in sizes.items()
    ]
    annotations = [
        {
            "segmentation": [[267.52, 229.75, 265.6, 226.68, 265.79, 223.6]],
            "area": 1.0,
            "iscrowd": 0,
            "image_id": each["image_id"],
            "bbox": boxes[each["ref_id"]],
            "category_id": 1,
            "id": each["ann_id"],
        }
        for each in refs
    ]
    categories = [{"supercategory": "person", "id": 1, "name": "person"}]
    content = {"info": {"description": "MS COCO"}, "images": images, "licenses": [{"id": 1}]}
    write_json(folder / "instances.json", content | {"annotations": annotations, "categories": categories})
    name = "refs(umd).p" if folder.name == "refcocog" else "refs(unc).p"
    (folder / name).write_bytes(pickle.dumps(refs, protocol=0))
    return folder


def sharegpt4v(path: Path, captions: list[tuple[str, str]]) -> Path:
    """(image, caption); `<image>` stands before every other question, else behind it."""
    asked = ("<image>\nWhat do you see in this image?", "What do you see happening in this image?\n<image>")
    content = [
        {
            "id": Path(image).stem,
            "image": image,
            "conversations": [
                {"from": "human", "value": asked[place % 2]},
                {"from": "gpt", "value": caption},
            ],
        }
        for place, (image, caption) in enumerate(captions)
    ]
    return write_json(path, content)


def sharegpt(path: Path, conversations: list[list[tuple[str, str]]]) -> Path:
    """Turns of (from, value); an id ends with the place that its part begins at in a conversation."""
    content = [
        {"id": f"QWJhYvA_{2 * n}", "conversations": [{"from": who, "value": value} for who, value in turns]}
        for n, turns in enumerate(conversations)
    ]
    return write_json(path, content)


def word_tokenizer(path: Path) -> Path:
    """A tokenizer.json whose tokens are words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path))
    return path
