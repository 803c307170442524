import pytest


@pytest.fixture(autouse=True)
def _own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 4 leaves --bf16 in the environment, where the next training would find it."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
