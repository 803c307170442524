"""What cannot be exact is refused in a sentence, before a model is loaded where the arguments tell."""

import json
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.integrations.swift import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no ms-swift: make test-swift", allow_module_level=True)

from tests.integrations.swift.cases import Case, run_cases
from tests.integrations.swift.world import WEIGHTS, World

pytestmark = pytest.mark.timeout(900)
_LEAVE = "leave it out"
# The words, what is said of them, and what to do.
ARGUMENTS = {
    "--loss_type cross_entropy": ("loss_type: expected None, got 'cross_entropy'", _LEAVE),
    "--label_smoothing_factor 0.1": ("label_smoothing_factor: expected 0, got 0.1", _LEAVE),
    "--enable_dft_loss true": ("enable_dft_loss: expected False, got True", _LEAVE),
    "--enable_channel_loss true": ("enable_channel_loss: expected False, got True", "task_loss/<name>"),
    "--sequence_parallel_size 2": ("sequence_parallel_size: expected 1, got 2", _LEAVE),
    "--use_logits_to_keep true": ("use_logits_to_keep: expected False, got True", _LEAVE),
    "--use_liger_kernel true": ("use_liger_kernel: expected", "--liger_kernel_config"),
    "--use_ray true": ("use_ray: expected False, got True", "NPROC_PER_NODE"),
    "--loss_scale hermes": ("loss_scale: expected one of 0 and 1 alone", "--is_binary_loss_scale true"),
    "--is_binary_loss_scale false": ("loss_scale: expected one of 0 and 1 alone", "choose another"),
    "--task_type seq_cls --num_labels 2": ("task_type: expected 'causal_lm', got 'seq_cls'", "without"),
}


@pytest.fixture(scope="module")
def answers(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The error of each case, by name; all ran in one process."""
    folder = tmp_path_factory.mktemp("refused")
    vqa = [json.loads(line) for line in world.data("vqa").read_text().splitlines()]
    untold = [{"messages": record["messages"]} for record in vqa]
    data = {
        "no channel": untold,
        "some without": [*untold[:3], *vqa[3:]],
        "misspelt": [record | {"channel": "VQA"} for record in vqa],
    }
    cases = [Case(f"arguments {index}", words) for index, words in enumerate(ARGUMENTS)]
    for name, records in data.items():
        path = folder / f"{name.replace(' ', '_')}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        cases.append(Case(name, data=(path, world.data("chat"))))
    cases.append(
        Case("streamed", "--tuner_type full --streaming true --max_steps 1", data=(cases[-3].data[0],))
    )
    missing, twice = folder / "missing.py", folder / "rule.py"
    missing.write_text("from cotbal.integrations.swift import balance\nbalance('nowhere.json')\n")
    twice.write_text(
        "from cotbal.balancing import TLA\nfrom cotbal.integrations.swift import balance\nbalance(TLA())\n"
    )
    cases.append(Case("rlhf", "--tuner_type full --rlhf_type dpo", stage="rlhf"))
    cases.append(Case("no file", plugin=missing))
    cases.append(Case("no names", "--tuner_type full --streaming true --max_steps 1", plugin=twice))
    results = run_cases(world, folder / "runs", cases)
    return lambda name: results[name][0]["error"]


@pytest.mark.parametrize("words", ARGUMENTS)
def test_an_argument(answers: Callable[[str], str], words: str) -> None:
    error = answers(f"arguments {[*ARGUMENTS].index(words)}")
    assert error.startswith("ValueError: ")
    assert all(part in error for part in ARGUMENTS[words]), error


def test_another_stage(answers: Callable[[str], str]) -> None:
    assert "rlhf_type: expected swift sft, got 'dpo'" in answers("rlhf")


def test_records_without_a_channel(answers: Callable[[str], str]) -> None:
    known = f"known tasks: {', '.join(WEIGHTS)}. Write"
    assert f"got none in 8 of 16 records; {known}" in answers("no channel")
    assert f"got none in 3 of 16 records; {known}" in answers("some without")


def test_a_channel_without_a_weight(answers: Callable[[str], str]) -> None:
    expected = "got 8 records of 'VQA' (did you mean 'vqa'?); known tasks: vqa, caption, chat"
    assert expected in answers("misspelt")


def test_streamed_records_without_a_channel(answers: Callable[[str], str]) -> None:
    assert "got none in 2 of 2 records; known tasks: vqa, caption, chat" in answers("streamed")


def test_weights_that_are_not_there(answers: Callable[[str], str]) -> None:
    assert answers("no file").startswith("FileNotFoundError")
    assert "nowhere.json" in answers("no file")


def test_a_rule_without_names_on_streamed_records(answers: Callable[[str], str]) -> None:
    assert "tasks: expected the task names" in answers("no names")
    assert "balance(..., tasks=[...])" in answers("no names")


def test_no_weights_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from cotbal.integrations.swift.plugging import Choice

    monkeypatch.delenv("COTBAL_WEIGHTS", raising=False)
    with pytest.raises(ValueError, match=r"COTBAL_WEIGHTS: expected it to name .*, got none; export"):
        Choice().weighting()


def test_empty_weights_are_no_wish_for_those_of_the_variable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotbal.integrations.swift.plugging import Choice

    monkeypatch.setenv("COTBAL_WEIGHTS", str(world.weights))
    with pytest.raises(ValueError, match="weights: expected"):
        Choice({}).names()


@pytest.mark.parametrize("found", ["3.9.0", "4.5.1"])
def test_an_older_ms_swift(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    from cotbal.integrations.swift import balance, plugging

    monkeypatch.setattr(plugging, "version", lambda _: found)
    with pytest.raises(ImportError, match=rf"ms-swift: expected 4.6 or newer, got {found}; pip install"):
        balance()


def test_megatron(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own package cannot be imported here: its name is enough."""
    from cotbal.integrations.swift import balance

    monkeypatch.setitem(sys.modules, "swift.megatron", ModuleType("swift.megatron"))
    with pytest.raises(ImportError, match="megatron: expected swift sft, got Megatron's training"):
        balance()


def test_an_ms_swift_that_lacks_what_this_stands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from cotbal.integrations.swift import balance, plugging

    monkeypatch.setattr(plugging, "_NEEDED", {"json": ("JSONEncoder.encode", "JSONEncoder.nothing")})
    with pytest.raises(ImportError, match=r"expected json.JSONEncoder.nothing, which is not in 4\.6\.0"):
        balance()
