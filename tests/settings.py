"""How much the tests try: `make test` stays within minutes, `make test-full` runs the long matrices."""

import os

from hypothesis import HealthCheck, Phase, settings


def load_hypothesis_profile() -> None:
    # A kernel in the interpreter takes milliseconds a row: a deadline would only measure the machine.
    common = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("fast", max_examples=8, **common)
    settings.register_profile("full", max_examples=100, **common)
    # For deliberate breakage only whether a test fails matters, not its smallest example.
    settings.register_profile("breakage", max_examples=4, phases=[Phase.explicit, Phase.generate], **common)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
