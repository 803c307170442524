"""The command of the README itself: `swift sft` with NPROC_PER_NODE, which starts torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.swift import IS_INSTALLED

if not IS_INSTALLED:
    pytest.skip("no ms-swift: make test-swift", allow_module_level=True)

from tests.integrations.swift.cases import Case, environment, run_cases
from tests.integrations.swift.world import World
from tests.ports import free_port

pytestmark = pytest.mark.timeout(900)


# ms-swift takes float32 for fp16 under an engine, whose first steps only look for a scale.
_ENGINE = "--fp16 false --bf16 false --deepspeed"


@pytest.fixture(scope="module")
def expected(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of Eq. 2 of the same steps in one process of twice the accumulation."""
    alone = Case("alone", "--tuner_type full --gradient_accumulation_steps 4")
    (rank,) = run_cases(world, tmp_path_factory.mktemp("alone"), [alone])["alone"]
    return [step["numerator"] / step["denominator"] for step in rank["steps"]]


@pytest.mark.parametrize(
    "engine", ["", f"{_ENGINE} zero1", f"{_ENGINE} zero2"], ids=["DDP", "ZeRO-1", "ZeRO-2"]
)
def test_two_processes_are_one_of_twice_the_accumulation(
    world: World, tmp_path: Path, expected: list[float], engine: str
) -> None:
    command = Case("command", f"--tuner_type full --gradient_accumulation_steps 2 {engine}")
    swift = [sys.executable, str(Path(sys.executable).with_name("swift")), "sft"]
    asked = {"NPROC_PER_NODE": "2", "MASTER_PORT": str(free_port())}
    done = subprocess.run(
        [*swift, *command.arguments(world, tmp_path)],
        env=environment(world) | asked,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = "cotbal: 24 records: vqa 8, caption 8, chat 8; weights vqa 0.4, caption 1.9, chat 1"
    assert done.stdout.count(told) == 1
    lines = (tmp_path / "command" / "logging.jsonl").read_text().splitlines()
    logged = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    assert len(expected) == 3
    assert logged == pytest.approx(expected, rel=1e-6)


def test_the_plugin_needs_no_weights_where_nothing_is_trained(world: World) -> None:
    """`swift infer` imports the plugins that a checkpoint was trained with."""
    without = {key: value for key, value in environment(world).items() if key != "COTBAL_WEIGHTS"}
    found = subprocess.run(
        [sys.executable, "-m", "cotbal.integrations.swift"], capture_output=True, text=True, check=True
    )
    subprocess.run([sys.executable, found.stdout.strip()], env=without, check=True, cwd=os.sep)
