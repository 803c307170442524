"""What LLaVA's generation stands on without a model: its loader, and the recipe's words."""

import shlex

import llava.model.builder
import pytest
import torch

from cotbal.integrations.llava import generate
from cotbal.integrations.llava.generation import load_checkpoint
from cotbal.project import recipe_files

# torch's deprecations in the code of LLaVA and transformers.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_another_loader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As LLaVA-NeXT has it."""
    monkeypatch.setattr(llava.model.builder, "load_pretrained_model", lambda model_path, model_base: None)
    with pytest.raises(ImportError, match=r"expected the loader of LLaVA v1\.5"):
        load_checkpoint(llava, "m", None, torch.device("cpu"), False)


def test_the_recipes_evaluation_is_understood() -> None:
    """Every word of the command in `llava.yaml`, up to the score."""
    recipe = next(path for path in recipe_files() if path.name == "llava.yaml").read_text()
    command = recipe.split("evaluate:")[1].split("command: >-")[1].split("&&")[0]
    words = shlex.split(command.replace("{", "").replace("}", ""))
    assert words[:2] == ["torchrun", "--nproc_per_node"]
    options = generate._parser().parse_args(words[words.index("cotbal.integrations.llava.generate") + 1 :])
    assert (options.model, str(options.questions), str(options.out)) == (
        "model",
        "data",
        "output/answers.jsonl",
    )
