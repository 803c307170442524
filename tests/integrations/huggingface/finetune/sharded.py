"""The command on processes without a GPU under DeepSpeed or FSDP2: `torchrun sharded.py ENGINE WORDS...`."""

import sys
from collections.abc import Sequence
from typing import Any

from accelerate.state import DistributedType, PartialState

from cotbal.integrations.huggingface.finetune import entry
from tests.integrations.huggingface.equality.stacks import start_deepspeed


def main(engine: str, words: Sequence[str]) -> int:
    """The command's exit code."""
    if engine == "deepspeed":
        start_deepspeed()
        return entry.main(words)
    parse = entry.parse

    def parsed(words: Sequence[str]) -> tuple[Any, Any]:
        options, args = parse(words)
        # accelerate gives FSDP to processes with a GPU each; all behind that question runs on a CPU too.
        assert args.distributed_state.distributed_type == DistributedType.MULTI_CPU
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return options, args

    entry.parse = parsed
    return entry.main(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
