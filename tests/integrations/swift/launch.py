"""Runs cases one after another by ms-swift's own `sft_main`, and saves what each came to, by rank.

python -m tests.integrations.swift.launch <cases.json> <folder>
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from swift.arguments import SftArguments
from swift.pipelines import pretrain_main, rlhf_main, sft_main
from swift.template.templates.qwen import Qwen2VLTemplate
from transformers import AutoTokenizer

from tests.integrations.swift.recorder import recording
from tests.integrations.swift.world import WEIGHTS

_STAGES = {"sft": sft_main, "pt": pretrain_main, "rlhf": rlhf_main}


def main(cases: list[dict[str, Any]], folder: Path) -> None:
    for case in cases:
        model = case["arguments"][case["arguments"].index("--model") + 1]
        # ms-swift has the id of the published models, whose vocabulary is a thousand times as large.
        Qwen2VLTemplate.image_token_id = AutoTokenizer.from_pretrained(model).convert_tokens_to_ids(
            "<|image_pad|>"
        )
        with recording() as recorder:
            try:
                # ms-swift asks for flash-attn; sdpa keeps segments apart by their positions on a CPU too.
                with patch.object(SftArguments, "_check_padding_free", _packing_is_padding_free):
                    _STAGES[case["stage"]](case["arguments"])
                result = {"error": ""} | recorder.results(WEIGHTS)
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"}
        rank = dist.get_rank() if dist.is_initialized() else 0
        torch.save(result, folder / f"{case['name']}.{rank}.pt")


def _packing_is_padding_free(arguments: SftArguments) -> None:
    arguments.padding_free = arguments.padding_free or arguments.packing


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    if dist.is_initialized():
        dist.destroy_process_group()
