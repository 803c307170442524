"""`python -m cotbal.integrations.huggingface.finetune`."""

import sys

from cotbal._ending import ends


def main() -> int:
    """The exit code; the command's own words are told without what trains, which takes seconds to import."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        from cotbal.integrations.huggingface.finetune.options import parser_of

        parser_of().print_help()
        return 0
    from cotbal.integrations.huggingface.finetune.entry import main as train

    return train()


if __name__ == "__main__":
    ends(main)
