"""`python -m cotbal.integrations.llava`: LLaVA's own training with the balanced loss, for `train_mem.py`."""

from cotbal._ending import ends
from cotbal.integrations.llava.entry import main

if __name__ == "__main__":
    ends(main)
