"""Where a loss can be, and what it divides by; a command names them before torch is imported."""

LEVELS = ("auto", "linear", "logits")
DENOMINATORS = ("step", "world", "micro")
