"""LLaVA-NeXT's own `train()`. No index has that package, so the tests take a checkout of its repository.

    COTBAL_TEST_LLAVA_NEXT=<checkout> python -m pytest tests/integrations/llava_next

in an environment with the requirements beside this file. Beside the tests of `llava`, not below them: the two
packages bear the same name, and a process can have one of them.
"""

import os
import sys

CHECKOUT = os.environ.get("COTBAL_TEST_LLAVA_NEXT")
if CHECKOUT and CHECKOUT not in sys.path:
    sys.path.insert(0, CHECKOUT)
# Its conversation templates ask a hub for a tokenizer when they are imported, and do without after minutes.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
