"""With LLaVA's vocabulary a training step takes a fraction of the memory that it takes without the patch."""

from pathlib import Path

import pytest

from tests.integrations.llava.cost import VOCABULARY, agree, measure
from tests.integrations.llava.world import World, make_wide_model

# torch's deprecations in the code of LLaVA and transformers, an open file of LLaVA's.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_peak_memory_of_a_step(world: World, tmp_path: Path) -> None:
    make_wide_model(world, VOCABULARY)
    own, ours = (measure(world, tmp_path, patched=patched) for patched in (False, True))
    assert agree(own, ours, 1e-6)
    assert own.losses[0] > 0
    # LLaVA holds logits of all positions, thrice; a tenth of them has a label.
    assert ours.peak_mib <= 0.2 * own.peak_mib
