"""Where a loss can be; the words of a command name them before torch is imported."""

LEVELS = ("auto", "linear", "logits")
