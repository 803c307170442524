"""LLaVA-NeXT's own `train()`. No index has that package, so the tests take a checkout of its repository.

    make test-llava-next NEXT=<checkout>

It stands beside the tests of `llava`, not below them: the two packages bear the same name, and a process can
have one of them.
"""

import os
import sys

CHECKOUT = os.environ.get("COTBAL_TEST_LLAVA_NEXT")
if CHECKOUT is not None:
    sys.path.insert(0, CHECKOUT)
    # Its templates ask a hub for a tokenizer when they are imported, and do without it after minutes.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
