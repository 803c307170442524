"""Contribution from probes on a share of each task, difficulty from an equally weighted model."""

import pytest
import torch

from cotbal.estimate import Scores, contribution, difficulty, estimate_weights
from cotbal.estimate.items_json import read_items, write_items
from cotbal.estimate.no_probes import TwoModels
from cotbal.estimate.seeds import pooled_scores
from cotbal.estimate.uncertainty import uncertainty
from cotbal.report.findings import Settings, estimate_results
from cotbal.report.page import render_page

TASKS = ["a", "b", "c"]
MINI = [0.2, 0.3, 0.25]
PROBES = [[0.6, 0.35, 0.3], [0.25, 0.7, 0.2], [0.3, 0.4, 0.5]]
EQUAL = [0.5, 0.9, 0.4]


def with_items(equal=None, count=400):
    generator = torch.Generator().manual_seed(1)
    rows = {"mini": MINI, **dict(zip(TASKS, PROBES, strict=True))} | ({"equal": equal} if equal else {})
    luck = {task: torch.rand(count, generator=generator) for task in TASKS}
    items = {
        run: {t: (luck[t] < v).double() for t, v in zip(TASKS, row, strict=True)} for run, row in rows.items()
    }
    means = {run: [of_run[task].mean().item() for task in TASKS] for run, of_run in items.items()}
    probes = [means[task] for task in TASKS]
    return Scores(TASKS, means["mini"], probes, equal=means.get("equal"), items=items)


def test_equally_weighted_model_changes_the_difficulty_and_nothing_else():
    with_probes, cheap = Scores(TASKS, MINI, PROBES), Scores(TASKS, MINI, PROBES, equal=EQUAL)
    assert torch.equal(contribution(cheap), contribution(with_probes))
    assert difficulty(cheap).tolist() == pytest.approx([1 - m / e for m, e in zip(MINI, EQUAL, strict=True)])
    one, other = (estimate_weights(scores, rule="contribution") for scores in (cheap, with_probes))
    assert dict(one) == dict(other)
    found = estimate_weights(cheap)
    assert found.provenance["scores"]["equal"] == EQUAL
    assert dict(found) != dict(estimate_weights(with_probes))


def test_score_of_the_equally_weighted_model_must_be_above_zero():
    with pytest.raises(ValueError, match=r"task 'b': the difficulty .* needs scores > 0"):
        difficulty(Scores(TASKS, MINI, PROBES, equal=[0.5, 0.0, 0.4]))


def test_table_and_items_are_read_back(tmp_path):
    first = with_items(EQUAL)
    items = read_items(write_items(tmp_path / "items.json", first.items)).items
    again = Scores.from_csv(first.to_csv(tmp_path / "scores.csv"), items=items)
    assert TwoModels.from_csv(tmp_path / "scores.csv") is None
    assert torch.equal(again.equal, first.equal)
    assert torch.equal(again.probes, first.probes)
    assert torch.equal(again.items["equal"]["b"], first.items["equal"]["b"])


def test_intervals_of_the_difficulty_are_those_of_the_two_models():
    cheap, plain = with_items(EQUAL), with_items()
    found, of_probes = uncertainty(cheap), uncertainty(plain)
    two = TwoModels(
        TASKS, cheap.mini.tolist(), cheap.equal.tolist(), {r: cheap.items[r] for r in ("mini", "equal")}
    )
    D = two.difficulty()
    assert ((found.difficulty[0] < D) & (found.difficulty[1] > D)).all()
    # Only D and what needs it changes; the same items are drawn.
    for name in ("mini", "probes", "one2all", "all2one"):
        assert torch.equal(getattr(found, name), getattr(of_probes, name))
    assert not torch.allclose(found.difficulty, of_probes.difficulty, atol=0.02)
    assert torch.equal(found.rules["contribution"].low, of_probes.rules["contribution"].low)
    # Rule difficulty from two models with alpha 0 is a bootstrap of its own.
    expected = two.intervals(alpha=0.0, draws=4000).T
    assert torch.allclose(
        torch.stack([found.rules["difficulty"].low, found.rules["difficulty"].high]), expected, atol=0.03
    )


def test_seeds_are_pooled_with_their_equally_weighted_models():
    found = uncertainty([with_items(EQUAL), with_items([0.6, 0.8, 0.45])])
    low, high = found.difficulty[:, 0].tolist()
    assert low < 1 - 0.2 / 0.55 < high


def test_one_equally_weighted_model_under_all_seeds_has_the_noise_of_the_other_trainings():
    """As if it had been trained anew: its D is as unsure as that of a model of each seed, and more."""

    def scores(shift, equal):
        moved = with_items(equal)
        return Scores(
            TASKS,
            moved.mini + shift,
            moved.probes + shift,
            equal=moved.equal,
            items={
                run: {task: row + (0 if run == "equal" else shift) for task, row in of_run.items()}
                for run, of_run in moved.items.items()
            },
        )

    shifts = (-0.02, 0.0, 0.02)
    one = [scores(shift, EQUAL) for shift in shifts]
    found = uncertainty(one, over=["seeds"])
    assert found.equal_is_one_training
    # D = 1 - mini / equal: the mean mini run has a standard error of .02 / sqrt(3), one training .02;
    # 4.303 is Student's t of 2 degrees of freedom.
    mini, equal = pooled_scores(one).mini, one[0].equal
    error = ((0.02**2 / 3 + (mini / equal) ** 2 * 0.02**2) ** 0.5) / equal
    assert torch.allclose((found.difficulty[1] - found.difficulty[0]) / 2 / 4.303, error, rtol=0.1)
    assert not uncertainty(one, over=["items"]).equal_is_one_training
    several = [scores(shift, [0.5, 0.9, 0.4 + shift]) for shift in shifts]
    assert not uncertainty(several).equal_is_one_training
    assert not uncertainty(one[:1]).equal_is_one_training
    told = "The model of equal weights is one training under all seeds"
    for tables, times in ((one, 1), (several, 0)):
        results = estimate_results(tables, Settings(), source="seeds")
        assert " ".join(results["statements"]).count(told) == times


@pytest.mark.parametrize("is_cheap", [True, False])
def test_page_says_that_d_is_from_the_row_equal_and_a_quarter_only_of_mode_cheap(is_cheap):
    """A table with a row equal does not tell how much of their tasks its probes have."""
    tables = [Scores(TASKS, MINI, PROBES, equal=EQUAL)]
    page = render_page(estimate_results(tables, Settings(is_cheap=is_cheap), source="seed 0"))
    assert page.count("D is from the row equal, the model of equal weights") == 1
    assert ("a quarter of its own data" in page) == is_cheap
    assert "own data in full" not in page
    assert "all data, equal weights" in page


def test_page_of_probes_or_of_the_precise_difficulty_says_nothing_of_a_row_equal():
    alone = {"single_mini": MINI, "single_full": EQUAL}
    precise = Scores(TASKS, MINI, PROBES, equal=EQUAL, **alone)
    for scores, settings in (
        (Scores(TASKS, MINI, PROBES), Settings()),
        (precise, Settings(precise=True)),
    ):
        found = estimate_results([scores], settings, source="seed 0")
        assert "row equal" not in " ".join(found["statements"])
