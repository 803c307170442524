"""What is met in transformers' auto mappings is exact or refused in a sentence, never wrong silently."""

import re
from pathlib import Path

import pytest
import transformers

from tests.integrations.huggingface import sweep
from tests.integrations.huggingface.level_cases import FROM_5

README = Path(__file__).parents[3] / "README.md"


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("Qwen3MoeForCausalLM", "exact", "linear"),
        ("OPTForCausalLM", "exact", "logits"),
        ("BartForCausalLM", "refused", "BartForCausalLM computed no loss through its loss_function"),
        ("Pix2StructForConditionalGeneration", "not built", "flattened_patches"),
    ],
)
@pytest.mark.skipif(not FROM_5, reason="some of these classes are newer")
def test_what_the_sweep_finds_of_a_class(name: str, found: str, said: str) -> None:
    outcome, reason = sweep.outcome(name)
    assert outcome == found, reason
    assert said in reason


def test_the_sweep_sees_a_wrong_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = sweep.weighted
    monkeypatch.setattr(sweep, "weighted", lambda *args: 1.0001 * by_hand(*args))
    outcome, reason = sweep.outcome("LlamaForCausalLM")
    assert outcome == "wrong"
    assert "off by 1e-04 at the logits level" in reason


# The classes' own, of tiny configurations that nobody would train.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.full
def test_no_class_is_wrong() -> None:
    found = {name: sweep.outcome(name) for name in sweep.classes()}
    counts = {kind: [name for name in found if found[name][0] == kind] for kind in ("exact", "refused")}
    print({kind: len(names) for kind, names in counts.items()}, "of", len(found))
    assert not {name: reason for name, (kind, reason) in found.items() if kind == "wrong"}
    # The rest needs more than text, or a configuration that its names do not tell.
    assert len(counts["exact"]) > 0.6 * len(found)
    assert "BartForCausalLM" in counts["refused"]
    readme = README.read_text(encoding="utf-8")
    said = re.search(r"Of (\d+) classes (\d+) were exact and\s(\d+) refused", readme)
    assert said is not None
    if transformers.__version__ == "5.23.0":
        assert len(found) == int(said[1])
        # More where a package that some need is there, timm for one.
        assert len(counts["exact"]) >= int(said[2])
        assert len(counts["refused"]) >= int(said[3])
