"""The digit world as a user's own data would lie: `python -m cotbal.demo.files FOLDER [--profile quick]`.

FOLDER gets train/, validation/ and test/ with a JSONL file per task, their pictures in images/, and in base/
the model that every run starts from. The recipe `digits.yaml` estimates weights from them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image as Picture

from cotbal._ending import ends
from cotbal.demo.base import train_base
from cotbal.demo.job import MODEL_FILE
from cotbal.demo.model import build_model, save_model
from cotbal.demo.profiles import PROFILES, Profile, get_profile
from cotbal.demo.records import load_corpus
from cotbal.files import write_text_atomically

SPLITS = ("train", "validation", "test")


def write_world(folder: Path, profile: str, seed: int) -> None:
    """Writes the records and pictures of every task and split.

    Raises:
        OSError: the disk cannot take a file.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for task in get_profile(profile).all_tasks:
        for split in SPLITS:
            corpus = load_corpus(profile, seed, task, split)
            for place, record in enumerate(corpus.records):
                if (image := corpus.image(place)) is not None:
                    Picture.fromarray(image).save(folder / "images" / record["image"])
            lines = "".join(json.dumps(record) + "\n" for record in corpus.records)
            write_text_atomically(folder / split / f"{task}.jsonl", lines)


def write_base(folder: Path, profile: Profile, seed: int) -> None:
    """Trains the base model, where the profile has one, and writes it.

    Raises:
        OSError: the disk cannot take the file.
    """
    if profile.has_base:
        model, _ = train_base(profile, seed, "cpu", lambda done: None)
    else:
        model = build_model(profile, seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, folder / MODEL_FILE)


def main() -> None:
    """Writes a world and its base model."""
    parser = argparse.ArgumentParser(prog="python -m cotbal.demo.files", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--profile", default="quick", choices=PROFILES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_world(options.folder, options.profile, options.seed)
    print(f"Wrote the records and pictures under {options.folder}; now the base model, in half a minute.")
    write_base(options.folder / "base", get_profile(options.profile), options.seed)
    print(f"Wrote {options.folder / 'base' / MODEL_FILE}.")


if __name__ == "__main__":
    ends(main)
