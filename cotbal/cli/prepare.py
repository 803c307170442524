"""`cotbal prepare`: public data sets, or a table of yours, as records to train on and questions to score."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from cotbal.cli.mix import mix
from cotbal.cli.preparing import (
    File,
    Folder,
    Form,
    FormOption,
    ImageFolder,
    Images,
    Json,
    Out,
    Seed,
    Skip,
    Validation,
    reading,
    show,
    target,
)

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def prepare() -> None:
    """Turn a data set's own annotation files into records to train on and held-out questions to score.

    One command per source, then `cotbal prepare mix` puts them together. Each task gets a folder under --out:
    train.json, val.jsonl, test.jsonl, and prepared.json with sizes and hashes, which is written last. The
    same files and the same seed give the same bytes.

    Example: cotbal prepare vqav2 --annotations vqav2 --images coco --out data
    """


@app.command()
def vqav2(
    annotations: Folder,
    images: Images = "coco",
    out: Out = Path("data"),
    image_folder: ImageFolder = None,
    validation: Validation = 20_000,
    seed: Seed = 0,
    form: FormOption = Form.JSON,
    skip_invalid: Skip = False,
    as_json: Json = False,
) -> None:
    """VQAv2: v2_OpenEnded_mscoco_SPLIT_questions.json with v2_mscoco_SPLIT_annotations.json.

    train2014 is needed; val2014 and test-dev2015 (no answers) become held-out questions. The pictures are in
    train2014/, val2014/ and test2015/ of --images. About 83k conversations, one for each picture.

    Example: cotbal prepare vqav2 --annotations vqav2 --images coco --out data
    """
    from cotbal.data.vqav2 import prepare_vqav2

    with reading(skip_invalid) as inputs:
        to = target(out, images, image_folder, seed, form)
        show(prepare_vqav2(annotations, to, inputs, validation=validation), as_json)


@app.command()
def gqa(
    annotations: Folder,
    images: Images = "gqa/images",
    out: Out = Path("data"),
    image_folder: ImageFolder = None,
    validation: Validation = 20_000,
    seed: Seed = 0,
    form: FormOption = Form.JSON,
    skip_invalid: Skip = False,
    as_json: Json = False,
) -> None:
    """GQA: train_balanced_questions.json, val_balanced_questions.json, testdev_balanced_questions.json.

    About 72k conversations, one for each picture; test-dev becomes the test questions.

    Example: cotbal prepare gqa --annotations gqa/questions --images gqa/images --out data
    """
    from cotbal.data.gqa import prepare_gqa

    with reading(skip_invalid) as inputs:
        to = target(out, images, image_folder, seed, form)
        show(prepare_gqa(annotations, to, inputs, validation=validation), as_json)


@app.command()
def chartqa(
    annotations: Folder,
    images: Images = "chartqa",
    out: Out = Path("data"),
    image_folder: ImageFolder = None,
    validation: Annotated[
        int | None, typer.Option(min=0, help="Draw so many validation questions; all by default.")
    ] = None,
    seed: Seed = 0,
    form: FormOption = Form.JSON,
    skip_invalid: Skip = False,
    as_json: Json = False,
) -> None:
    """ChartQA: SPLIT/SPLIT_human.json and SPLIT/SPLIT_augmented.json for train, val and test.

    The pictures are in SPLIT/png/ of --images. About 18k conversations, one for each chart.

    Example: cotbal prepare chartqa --annotations "ChartQA Dataset" --images chartqa --out data
    """
    from cotbal.data.chartqa import prepare_chartqa

    with reading(skip_invalid) as inputs:
        to = target(out, images, image_folder, seed, form)
        show(prepare_chartqa(annotations, to, inputs, validation=validation), as_json)


@app.command()
def ocrvqa(
    annotations: File,
    images: Images = "ocr_vqa/images",
    out: Out = Path("data"),
    image_folder: ImageFolder = None,
    validation: Validation = 20_000,
    conversations: Annotated[int, typer.Option(min=1, help="Draw so many books to train on.")] = 80_000,
    ending: Annotated[
        str | None, typer.Option(help="Of every picture's name (.jpg); that of its address by default.")
    ] = None,
    seed: Seed = 0,
    form: FormOption = Form.JSON,
    skip_invalid: Skip = False,
    as_json: Json = False,
) -> None:
    """OCR-VQA: dataset.json. 80k conversations are drawn, one for each book cover.

    Example: cotbal prepare ocrvqa --annotations ocr_vqa/dataset.json --images ocr_vqa/images --ending .jpg
    """
    from cotbal.data.ocrvqa import prepare_ocrvqa

    with reading(skip_invalid) as inputs:
        to = target(out, images, image_folder, seed, form)
        sizes = {"validation": validation, "conversations": conversations}
        show(prepare_ocrvqa(annotations, to, inputs, **sizes, ending=ending), as_json)


class Kind(str, Enum):
    """Tasks made of referring expressions."""

    CAPTION = "caption"
    BBOX = "bbox"
    BOTH = "both"


@app.command()
def refcoco(
    annotations: Annotated[
        list[Path], typer.Option(help="A folder refcoco, refcocog or refcoco+ as released; may be repeated.")
    ],
    images: Images = "coco/train2014",
    out: Out = Path("data"),
    image_folder: ImageFolder = None,
    kind: Annotated[
        Kind, typer.Option(help="The caption task, the bbox (grounding) task, or both.")
    ] = Kind.BOTH,
    turns: Annotated[int, typer.Option(min=1, help="Most turns of a training conversation.")] = 9,
    seed: Seed = 0,
    form: FormOption = Form.JSON,
    skip_invalid: Skip = False,
    as_json: Json = False,
) -> None:
    """RefCOCO, RefCOCOg and RefCOCO+: refs(unc).p, for RefCOCOg refs(umd).p, and instances.json of each.

    RefCOCO and RefCOCOg together are the tasks RefCOCO-caption and RefCOCO-bbox, about 41k conversations
    each. RefCOCO+ makes tasks of its own, which `prepare mix` leaves out unless it is asked for them. Boxes
    are (x1, y1, x2, y2) in 0..1 of the picture padded to a square. Of a pickle, plain data alone is read.

    Example: cotbal prepare refcoco --annotations refer/refcoco --annotations refer/refcocog --out data
    """
    from cotbal.data.refcoco import KINDS, prepare_refcoco

    kinds = KINDS if kind is Kind.BOTH else (kind.value,)
    with reading(skip_invalid) as inputs:
        to = target(out, images, image_folder, seed, form)
        show(prepare_refcoco(annotations, to, inputs, kinds=kinds, most_turns=turns), as_json)


@app.command()
def sharegpt4v(
    annotations: File,
    images: Images = "",
    out: Out = Path("data"),
    image_folder: ImageFolder = None,
    validation: Annotated[int, typer.Option(min=0, help="Hold out so many for validation.")] = 2_000,
    test: Annotated[int, typer.Option(min=0, help="Hold out so many for the test.")] = 2_000,
    seed: Seed = 0,
    form: FormOption = Form.JSON,
    skip_invalid: Skip = False,
    as_json: Json = False,
) -> None:
    """ShareGPT4V: sharegpt4v_instruct_gpt4-vision_cap100k.json, whose pictures' paths are kept.

    It is parted at random: 2k for validation, 2k for the test, about 98k to train on.

    Example: cotbal prepare sharegpt4v --annotations sharegpt4v_instruct_gpt4-vision_cap100k.json --out data
    """
    from cotbal.data.sharegpt4v import prepare_sharegpt4v

    with reading(skip_invalid) as inputs:
        to = target(out, images, image_folder, seed, form)
        show(prepare_sharegpt4v(annotations, to, inputs, validation=validation, test=test), as_json)


@app.command()
def sharegpt(
    annotations: File,
    tokenizer: Annotated[
        str, typer.Option(help="A tokenizer.json, its folder, or a model's name for transformers.")
    ],
    out: Out = Path("data"),
    tokens: Annotated[int, typer.Option(min=1, help="Longer conversations are cut.")] = 2048,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that count tokens; the bytes are the same.")
    ] = 1,
    seed: Seed = 0,
    form: FormOption = Form.JSON,
    as_json: Json = False,
) -> None:
    """ShareGPT: ShareGPT_V3_unfiltered_cleaned_split.json or another array of conversations; text alone.

    Invalid conversations are left out and counted by reason, as are records with a picture, so LLaVA's own
    mixture can be given too. Long ones end with the last answer that fits.

    Example: cotbal prepare sharegpt --annotations ShareGPT_V3_unfiltered_cleaned_split.json
    --tokenizer lmsys/vicuna-7b-v1.5 --workers 8 --out data
    """
    from cotbal.data.sharegpt import prepare_sharegpt

    with reading(False) as inputs:
        to = target(out, "", None, seed, form)
        options: dict[str, Any] = {"tokenizer": tokenizer, "most_tokens": tokens, "workers": workers}
        show(prepare_sharegpt(annotations, to, inputs, **options), as_json)


@app.command()
def generic(
    annotations: Annotated[Path, typer.Option(help="A .csv, .tsv, .json, .jsonl or .parquet file.")],
    task: Annotated[str, typer.Option(help="The task's name.")],
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="question, answer, image, id and split, where other than these names; id= takes none.",
        ),
    ] = None,
    images: Images = "",
    out: Out = Path("data"),
    image_folder: ImageFolder = None,
    instruction: Annotated[
        str | None, typer.Option(help="Response format instruction, at the end of a first question.")
    ] = None,
    merge: Annotated[bool, typer.Option(help="One conversation for all questions on a picture.")] = True,
    turns: Annotated[int | None, typer.Option(min=1, help="Most turns of a conversation.")] = None,
    validation: Annotated[int, typer.Option(min=0, help="Hold out so many pictures (or rows).")] = 0,
    test: Annotated[int, typer.Option(min=0, help="Hold out so many pictures (or rows).")] = 0,
    text_rows: Annotated[
        bool, typer.Option("--text-rows", help="A row without a picture is text alone, and no mistake.")
    ] = False,
    seed: Seed = 0,
    form: FormOption = Form.JSON,
    skip_invalid: Skip = False,
    as_json: Json = False,
) -> None:
    """A table of your own: say which column is which.

    Example: cotbal prepare generic --annotations qa.csv --task Receipts --column question=Q --column answer=A
    --column image=file --images receipts --validation 500 --out data
    """
    from cotbal.data.generic import COLUMNS, OPTIONAL, prepare_generic

    columns: dict[str, str] = {}
    for pair in column or ():
        name, equals, value = pair.partition("=")
        is_whole = equals and (value or name in OPTIONAL)
        if name not in COLUMNS or not is_whole or name in columns:
            raise ValueError(
                f"--column: expected FIELD=COLUMN, once for each of {', '.join(COLUMNS)}, got {pair!r}"
            )
        columns[name] = value
    with reading(skip_invalid) as inputs:
        options: dict[str, Any] = {"instruction": instruction, "merge": merge, "most_turns": turns}
        options |= {"validation": validation, "test": test, "task": task, "columns": columns}
        options |= {"text_rows": text_rows}
        show(
            prepare_generic(annotations, target(out, images, image_folder, seed, form), inputs, **options),
            as_json,
        )


app.command()(mix)
