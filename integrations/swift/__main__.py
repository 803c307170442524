"""`python -m cotbal.integrations.swift` prints the path of the plugin, for `swift sft --external_plugins`.

With `--checkpoint FOLDER` it prints the newest whole checkpoint in an `--output_dir`, and nothing where there
is none: for `--resume_from_checkpoint`, which takes nothing for a start from the beginning.
"""

import argparse
from pathlib import Path

from cotbal._ending import ends
from cotbal.integrations.checkpoints import newest_checkpoint


def main() -> None:
    """Prints a path."""
    parser = argparse.ArgumentParser(prog="python -m cotbal.integrations.swift", description=__doc__)
    parser.add_argument("--checkpoint", metavar="FOLDER", help="print its newest whole checkpoint instead")
    options = parser.parse_args()
    if options.checkpoint is None:
        print(Path(__file__).with_name("cotbal_plugin.py"))
    else:
        print(newest_checkpoint(options.checkpoint) or "")


if __name__ == "__main__":
    ends(main)
