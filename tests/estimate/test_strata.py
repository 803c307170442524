"""A task of several validation sets: the score is the plain mean over them, each has its own noise."""

import dataclasses
import math
from statistics import fmean, variance

import pytest
import torch

from cotbal.estimate.items_json import read_items, write_items
from cotbal.estimate.no_probes import TwoModels
from cotbal.estimate.resample import resample
from cotbal.estimate.scores import Scores
from cotbal.estimate.seeds import pooled_scores
from cotbal.estimate.signals import unidentified
from cotbal.estimate.strata import balanced, parts, variance_of_mean
from cotbal.estimate.uncertainty import uncertainty

SIZES = [(566, 510, 960), (1000, 20), (400, 2)]
# Of each set: what a ratio of the means leaves of the items is not 0 in each.
RUNS = {"mini": (0.6, 0.3, 0.4), "a": (0.9, 0.95, 0.7), "b": (0.62, 0.8, 0.5)}
OTHER = {"mini": [0.3], "a": [0.4], "b": [0.8]}


def labels(sizes):
    return [place for place, size in enumerate(sizes) for _ in range(size)]


def marks(sizes, shares, seed):
    """Right or wrong by item, the share by set; both in every set, so that none is without noise."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(size, generator=generator, dtype=torch.float64) for size in sizes]
    found = [(of < share).double().tolist() for of, share in zip(drawn, shares, strict=False)]
    return [mark for of_set in found for mark in [1.0, 0.0, *of_set[2:]]]


def by_set(row, sizes):
    found, rest = [], list(row)
    for size in sizes:
        found.append(rest[:size])
        rest = rest[size:]
    return found


def score_of(row, sizes):
    return fmean(map(fmean, by_set(row, sizes)))


def error_of(row, sizes):
    """The standard error of the plain mean over the sets, from each one's own variance."""
    found = by_set(row, sizes)
    return math.sqrt(sum(variance(each) / len(each) for each in found)) / len(found)


def table(rows, sizes, **options):
    """Scores of task "a" with these rows {run: items} and sets, and of "b" with one set of 200 items."""
    of_b = {run: marks([200], shares, 9) for run, shares in OTHER.items()}
    items = {run: {"a": rows[run], "b": of_b[run]} for run in rows}
    means = {run: [score_of(rows[run], sizes), fmean(of_b[run])] for run in rows}
    options = {"strata": {"a": labels(sizes)}, **options}
    return Scores(["a", "b"], means["mini"], [means["a"], means["b"]], items=items, **options)


def measured(sizes, **options):
    rows = {run: marks(sizes, shares, seed) for seed, (run, shares) in enumerate(RUNS.items())}
    return rows, table(rows, sizes, **options)


def variance_by(row, strata, clusters=None):
    items = balanced(torch.tensor(row, dtype=torch.float64), strata)
    return variance_of_mean(parts(items, "a", clusters, strata)).item()


@pytest.mark.parametrize("sizes", SIZES)
def test_the_variance_is_that_of_the_formula(sizes):
    for seed in range(3):
        row = marks(sizes, (0.8, 0.4, 0.6), seed)
        assert variance_by(row, labels(sizes)) == pytest.approx(error_of(row, sizes) ** 2, rel=1e-9)
        scaled = balanced(torch.tensor(row, dtype=torch.float64), labels(sizes))
        assert scaled.mean().item() == pytest.approx(score_of(row, sizes), rel=1e-12)


@pytest.mark.parametrize("sizes", SIZES)
def test_draws_are_as_far_apart_as_the_formula_says(sizes):
    rows, scores = measured(sizes)
    drawn = resample([scores], draws=4000)
    for run, values in (("mini", drawn.mini[:, 0]), ("b", drawn.probes[:, 1, 0])):
        # The standard deviation of 4000 draws is known to 1.1 %.
        assert values.std().item() == pytest.approx(error_of(rows[run], sizes), rel=0.05)
        assert values.mean().item() == pytest.approx(score_of(rows[run], sizes), rel=0.01)
        assert 0 <= values.min() <= values.max() <= 1
    gain = [own - base for own, base in zip(rows["a"], rows["mini"], strict=True)]
    paired = drawn.probes[:, 0, 0] - drawn.mini[:, 0]
    assert paired.std().item() == pytest.approx(error_of(gain, sizes), rel=0.05)


def test_the_set_of_a_ratio_ends_where_its_residual_is_as_large_as_its_noise():
    sizes = (566, 510, 960)
    rows, scores = measured(sizes)
    found = uncertainty(scores, draws=100).contribution
    other, own = ([x - y for x, y in zip(rows[run], rows["mini"], strict=True)] for run in ("b", "a"))
    for ratio in (found.low[1, 0].item(), found.high[1, 0].item()):
        residual = [a - ratio * d for a, d in zip(other, own, strict=True)]
        assert abs(score_of(residual, sizes)) == pytest.approx(1.96 * error_of(residual, sizes), rel=0.01)


def test_a_set_of_few_items_has_the_quantile_of_few():
    # Nearly all noise is that of 3 items: t of 2 degrees of freedom is 4.30 and not 1.96.
    sizes = (1000, 3)
    rows = {run: [1.0, 0.0] * 500 + last for run, last in (("mini", [0.0, 0.1, 0.2]), ("b", [0.5, 0.4, 0.3]))}
    rows["a"] = [1.0] * 1003
    found = uncertainty(table(rows, sizes), draws=100).contribution
    other = [x - y for x, y in zip(rows["b"], rows["mini"], strict=True)]
    own = [x - y for x, y in zip(rows["a"], rows["mini"], strict=True)]
    ratio = found.high[1, 0].item()
    residual = [a - ratio * d for a, d in zip(other, own, strict=True)]
    assert abs(score_of(residual, sizes)) > 3.5 * error_of(residual, sizes)


@pytest.mark.parametrize("sizes", [(1000, 20), (1000, 2), (2, 3, 2000)])
def test_without_noise_a_gain_is_identified_whatever_the_sizes(sizes):
    n = sum(sizes)
    scores = table({"mini": [0.0] * n, "a": [1.0] * n, "b": [0.5] * n}, sizes)
    assert "a" not in unidentified(scores)
    found = uncertainty(scores, draws=200)
    assert "a" not in found.unidentified
    assert torch.allclose(found.probes[:, 0, 0], torch.ones(2, dtype=torch.float64), rtol=1e-9)


def test_a_gain_within_the_noise_of_its_sets_is_told_in_their_standard_errors():
    sizes = (300, 40)
    shares = {"mini": (0.5, 0.6), "a": (0.55, 0.8), "b": (0.5, 0.5)}
    rows = {run: marks(sizes, of_run, seed) for seed, (run, of_run) in enumerate(shares.items())}
    gain = [own - base for own, base in zip(rows["a"], rows["mini"], strict=True)]
    z = score_of(gain, sizes) / error_of(gain, sizes)
    assert 0 < z < 3
    assert f"only {z:.2f} of its standard errors" in unidentified(table(rows, sizes))["a"]
    # Two by two on an image: the mean of each two is one item.
    pairs = [fmean(gain[place : place + 2]) for place in range(0, 340, 2)]
    z = score_of(gain, sizes) / error_of(pairs, (150, 20))
    scores = table(rows, sizes, clusters={"a": [place // 2 for place in range(340)]})
    assert f"only {z:.2f} of its standard errors" in unidentified(scores)["a"]


def test_without_probes_the_intervals_are_those_of_the_sets():
    sizes, temperature = (1000, 20), 0.5
    # The sets are far apart in the mini run: what the ratio leaves of each is not 0.
    rows = {"mini": marks(sizes, (0.95, 0.1), 3), "a": marks(sizes, (0.99, 1.0), 4)}
    of_b = {"mini": marks([300], [0.5], 1), "equal": marks([300], [0.9], 2)}
    items = {"mini": {"a": rows["mini"], "b": of_b["mini"]}, "equal": {"a": rows["a"], "b": of_b["equal"]}}
    means = {run: [score_of(row["a"], sizes), fmean(row["b"])] for run, row in items.items()}
    strata = {"a": labels(sizes)}
    models = TwoModels(["a", "b"], means["mini"], means["equal"], items, strata=strata)
    weights = models.intervals(temperature=temperature, alpha=0.0, draws=4000)[0] / 2
    low, high = (temperature * weights.log() - temperature * (1 - weights).log()).tolist()
    errors = []
    for task, of in (("a", sizes), ("b", [300])):
        ratio = score_of(items["mini"][task], of) / score_of(items["equal"][task], of)
        pairs = zip(items["mini"][task], items["equal"][task], strict=True)
        residual = [(mini - ratio * equal) / score_of(items["equal"][task], of) for mini, equal in pairs]
        errors.append(error_of(residual, of))
    # The quantiles of 4000 draws, of a ratio that is not quite normal.
    assert (high - low) / 2 == pytest.approx(1.96 * math.hypot(*errors), rel=0.1)


@pytest.mark.parametrize("sizes", SIZES)
def test_clusters_count_once_within_their_set(sizes):
    row, strata = marks(sizes, (0.7, 0.4, 0.6), 5), labels(sizes)
    numbers = torch.arange(len(row)).repeat(3)
    once = variance_by(row, strata)
    assert variance_by(row * 3, strata * 3, numbers) == pytest.approx(once, rel=1e-9)
    assert variance_by(row * 3, strata * 3) < 0.6 * once


def test_clusters_of_each_set_are_drawn_as_their_variance_says():
    sizes = (300, 40)
    rows, _ = measured(sizes)
    clusters = {"a": [place // 2 for place in range(340)]}
    scores = table(rows, sizes, clusters=clusters)
    drawn = resample([scores], draws=4000).mini[:, 0]
    # Pairs of one size: the mean of each pair is one item.
    pairs = [fmean(rows["mini"][place : place + 2]) for place in range(0, 340, 2)]
    assert drawn.std().item() == pytest.approx(error_of(pairs, (150, 20)), rel=0.05)


def test_an_image_in_two_sets_counts_once():
    """Two sets of the same items are one: their mean knows no more than either."""
    row, images = marks([300], [0.7], 0), list(range(300))
    alone = variance_by(row, labels([300]))
    assert variance_by(row * 2, labels([300, 300]), images * 2) == pytest.approx(alone, rel=1e-9)
    assert variance_by(row * 2, labels([300, 300])) == pytest.approx(alone / 2, rel=1e-9)
    scores = table(
        {run: marks([300], shares, 1) * 2 for run, shares in RUNS.items()},
        (300, 300),
        clusters={"a": images * 2},
    )
    drawn = resample([scores], draws=4000).mini[:, 0]
    assert drawn.std().item() == pytest.approx(
        error_of(scores.items["mini"]["a"][:300].tolist(), [300]), rel=0.05
    )


def test_images_in_some_of_the_sets_give_the_variance_of_the_score():
    """Of sets of 60 and 15 items that share 10 images: items on an image are alike."""
    images = torch.tensor([*range(60), *range(50, 65)])
    strata = labels([60, 15])
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(8000, 65, generator=generator, dtype=torch.float64)
    items = common[:, images] + 0.5 * torch.randn(8000, 75, generator=generator, dtype=torch.float64)
    # The sets are not alike otherwise.
    items = balanced(items + torch.tensor([0.0, 3.0])[torch.tensor(strata)], strata)
    found = variance_of_mean(parts(items, "a", images, strata)).mean().item()
    assert found == pytest.approx(items.mean(1).var().item(), rel=0.05)
    apart = variance_of_mean(parts(items, "a", None, strata)).mean().item()
    assert apart < 0.85 * found


def test_neither_the_order_of_the_items_nor_the_names_of_the_sets_change_anything():
    sizes = (30, 7, 12)
    row, strata = marks(sizes, (0.6, 0.3, 0.8), 2), labels(sizes)
    clusters = [place // 3 for place in range(49)]
    order = torch.randperm(49, generator=torch.Generator().manual_seed(1)).tolist()
    for numbers in (None, clusters):
        moved = None if numbers is None else [numbers[place] for place in order]
        again = variance_by(
            [row[place] for place in order], [7 - 3 * strata[place] for place in order], moved
        )
        assert again == pytest.approx(variance_by(row, strata, numbers), rel=1e-9)


def test_one_set_is_as_none_are_stated():
    rows, scores = measured([80])
    plain = table(rows, [80], strata={})
    assert torch.equal(resample([scores]).mini, resample([plain]).mini)
    assert torch.equal(uncertainty(scores).contribution.high, uncertainty(plain).contribution.high)


def test_the_mean_over_seeds_has_the_sets_of_each():
    sizes = (300, 40)
    tables = [measured(sizes)[1], measured(sizes)[1]]
    assert pooled_scores(tables).strata["a"].tolist() == labels(sizes)
    models = [
        TwoModels(each.tasks, each.mini, each.probes[0], {"mini": each.items["mini"]}, strata=each.strata)
        for each in tables
    ]
    assert TwoModels.pooled(models).strata["a"].tolist() == labels(sizes)
    # Its scores would be of other sets.
    other = measured((40, 300))[1]
    with pytest.raises(ValueError, match=r"strata\['a'\]: expected the same under every seed"):
        pooled_scores([tables[0], other])


def test_a_table_and_its_items_are_read_back_with_their_sets(tmp_path):
    rows, scores = measured((30, 7))
    path = write_items(tmp_path / "items.json", scores.items, scores.clusters, scores.strata)
    again = Scores.from_csv(scores.to_csv(tmp_path / "scores.csv"), **read_items(path)._asdict())
    assert torch.equal(resample([again], draws=100).probes, resample([scores], draws=100).probes)
    assert again.items["a"]["a"].tolist() == rows["a"]
    mini, equal = scores.mini.tolist(), scores.probes[0].tolist()
    pair = TwoModels(scores.tasks, mini, equal, {"mini": scores.items["mini"], "equal": scores.items["a"]})
    path = write_items(path, pair.items, strata=scores.strata)
    table = TwoModels.from_csv(pair.to_csv(tmp_path / "pair.csv"), **read_items(path)._asdict())
    assert torch.equal(table.intervals(), dataclasses.replace(pair, strata=scores.strata).intervals())


def test_items_of_several_sets_without_their_strata_are_refused():
    rows, scores = measured((300, 40))
    without = table(rows, (300, 40), strata={})
    with pytest.raises(ValueError, match="strata where it is the plain mean over several validation sets"):
        uncertainty(without)
    equal = scores.probes[0]
    items = {"mini": scores.items["mini"], "equal": scores.items["a"]}
    with pytest.raises(ValueError, match="or with strata the plain mean over them"):
        TwoModels(scores.tasks, scores.mini.tolist(), equal.tolist(), items).intervals()


@pytest.mark.parametrize(
    ("strata", "clusters", "words"),
    [
        ({"c": [0, 0]}, {}, r"strata\['c'\]: expected one of the tasks with items: a"),
        ({"a": [0, 0, 1]}, {}, r"strata\['a'\]: expected 4 whole numbers, one per item, got shape \(3,\)"),
        ({"a": [0, 0, 0, 1]}, {}, "at least 2 items of each stratum.* got 1 of stratum 1; .* leave that"),
        ({"a": [0, 0, 3, 3]}, {"a": [0, 1, 2, 2]}, "2 clusters where they are given, got 1 of stratum 3"),
    ],
)
def test_strata_that_tell_no_noise_are_refused(strata, clusters, words):
    items = {run: {"a": [1.0, 0.0, 1.0, 0.0]} for run in ("mini", "a", "b")}
    with pytest.raises(ValueError, match=words):
        Scores(["a", "b"], [0.5] * 2, [[0.5] * 2] * 2, items=items, strata=strata, clusters=clusters)
    with pytest.raises(ValueError, match=words):
        TwoModels(["a", "b"], [0.5] * 2, [0.5] * 2, {"mini": items["mini"]}, clusters, strata=strata)
