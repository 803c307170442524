"""The comparison of final models: the paper's own tables, laws of the measures, and their intervals."""

import csv
import json
from importlib import resources

import pytest
import torch

from cotbal.compare import Column, Finals, Model, compare, read_finals, write_finals
from cotbal.metrics import delta_e, delta_i, improvement
from cotbal.report.paper_tables import _TASKS

COLUMNS = (Column("a"), Column("b", "one"), Column("b", "two"), Column("c", better="lower"))
METHODS = ("STL", "EW", "CoTBal")


def drawn(n=60, seeds=(0,), chance=0.5, generator=0):
    """Models of random 0/1 items, the lower-is-better column among them."""
    source = torch.Generator().manual_seed(generator)
    models = {}
    for method in METHODS:
        models[method] = {}
        for seed in seeds:
            items = {c.name: (torch.rand(n, generator=source) < chance).double().tolist() for c in COLUMNS}
            models[method][seed] = Model({name: sum(row) / n for name, row in items.items()}, items)
    return Finals(COLUMNS, models)


def row_of(content, name):
    return next(row for row in content["methods"] if row["name"] == name)


def paper_csv(folder):
    """Tables 2 and 4 as a user would give them: a column per test set."""
    rows = {}
    for table in ("table2", "table4"):
        text = (resources.files("cotbal.report") / "paper" / f"{table}.csv").read_text(encoding="utf-8")
        rows |= {row["method"]: row for row in csv.DictReader(text.splitlines())}
    names = [
        f"{task}/{name}" if len(of_task) > 1 else task for task, of_task in _TASKS.items() for name in of_task
    ]
    lines = [",".join(["run", *names])]
    for method, row in rows.items():
        lines.append(",".join([method, *(row[name] for of_task in _TASKS.values() for name in of_task)]))
    path = folder / "paper.csv"
    path.write_text("\n".join(lines) + "\n")
    return path, rows


def test_the_papers_tables_come_out_as_printed(tmp_path):
    path, rows = paper_csv(tmp_path)
    content = compare(read_finals(path))
    assert [len(content["methods"]), len(content["columns"])] == [17, 11]
    for method, printed in rows.items():
        row = row_of(content, method)
        if method == "STL":
            assert (row["delta_i"], row["delta_e"]) == (0, 0)
            continue
        assert round(row["delta_i"], 2) == float(printed["printed_delta_I_pct"])
        assert round(row["delta_e"], 2) == float(printed["printed_delta_E_pct"])
    assert row_of(content, "CoTBal")["delta_i_difference"] == pytest.approx(9.45 - 7.30, abs=0.01)
    assert content["level"] is None
    assert any(
        "There are no intervals, as there are no scores by item of STL" in s for s in content["statements"]
    )


def test_measures_are_those_of_the_mean_scores_over_the_seeds():
    finals = drawn(seeds=(0, 1, 2))
    content = compare(finals)

    def by_task(method):
        mean = {
            c: sum(m.scores[c] for m in finals.models[method].values()) / 3 for c in finals.scores(method)
        }
        return {"a": {"a": mean["a"]}, "b": {k: mean[k] for k in ("b/one", "b/two")}, "c": {"c": mean["c"]}}

    gains = improvement(by_task("CoTBal"), by_task("STL"), lower_is_better=["c"])
    row = row_of(content, "CoTBal")
    assert row["scores"]["a"] == pytest.approx(by_task("CoTBal")["a"]["a"])
    assert row["improvement"] == pytest.approx(gains)
    assert row["delta_i"] == pytest.approx(delta_i(gains))
    assert row["delta_e"] == pytest.approx(delta_e(gains))


def test_a_method_that_is_the_baseline_differs_from_it_by_nothing_in_every_draw():
    finals = drawn(seeds=(0, 1))
    twin = Finals(COLUMNS, {**finals.models, "twin": finals.models["STL"]})
    row = row_of(compare(twin), "twin")
    assert (row["delta_i"], row["delta_i_interval"], row["delta_e_interval"]) == (0, [0, 0], [0, 0])


def test_intervals_are_paired():
    """The items of two methods that agree move together: their difference is far surer than either."""
    finals = drawn(n=200)
    nearly = {}
    for name, row in finals.models["EW"][0].items.items():
        nearly[name] = [1 - row[0], *row[1:]]
    scores = {name: sum(row) / len(row) for name, row in nearly.items()}
    content = compare(Finals(COLUMNS, {**finals.models, "CoTBal": {0: Model(scores, nearly)}}))
    row = row_of(content, "CoTBal")
    low, high = row["delta_i_interval"]
    near, far = row["delta_i_difference_interval"]
    assert far - near < (high - low) / 5


def test_the_draws_lie_around_the_measures():
    """A method that is better on all tasks, one of them by being lower: its interval is around its gain."""
    finals = drawn(n=400)
    right = {c.name: (0.2 if c.better == "lower" else 0.8) for c in COLUMNS}
    items = {
        name: [1.0] * round(400 * share) + [0.0] * round(400 * (1 - share)) for name, share in right.items()
    }
    row = row_of(compare(Finals(COLUMNS, {**finals.models, "CoTBal": {0: Model(right, items)}})), "CoTBal")
    for key in ("delta_i", "delta_i_difference"):
        low, high = row[f"{key}_interval"]
        assert 0 < low < row[key] < high
        assert row[key] == pytest.approx((low + high) / 2, rel=0.1)
    assert row["delta_e_interval"] == [0, 0]


def test_the_draws_lie_around_the_measures_of_a_method_that_wins_and_loses():
    """A task of two columns counts once, a gain offsets no loss in dE, and columns have their signs."""
    finals = drawn(n=1000)
    right = {"a": 0.9, "b/one": 0.2, "b/two": 0.4, "c": 0.65}
    items = {name: [float(place < 1000 * share) for place in range(1000)] for name, share in right.items()}
    row = row_of(compare(Finals(COLUMNS, {**finals.models, "CoTBal": {0: Model(right, items)}})), "CoTBal")
    for key in ("delta_i", "delta_e"):
        low, high = row[f"{key}_interval"]
        assert row[key] == pytest.approx((low + high) / 2, abs=(high - low) / 10)


def test_items_that_do_not_scatter_give_the_measures_themselves():
    models = {
        method: {
            0: Model(
                dict(zip(names, row, strict=True)), {n: [v] * 4 for n, v in zip(names, row, strict=True)}
            )
        }
        for names in ([column.name for column in COLUMNS],)
        for method, row in {"STL": [0.5] * 4, "EW": [0.75, 0.25, 0.5, 1.0]}.items()
    }
    row = row_of(compare(Finals(COLUMNS, models)), "EW")
    assert row["delta_i_interval"] == pytest.approx([-25, -25])
    assert row["delta_e_interval"] == pytest.approx([125 / 3, 125 / 3])


def test_a_baseline_that_is_0_in_some_draws_gives_no_interval_of_the_measures():
    finals = drawn()
    rare = finals.models["STL"][0].items | {"a": [1.0] * 2 + [0.0] * 58}
    scores = finals.models["STL"][0].scores | {"a": 2 / 60}
    models = {**finals.models, "STL": {0: Model(scores, rare)}, "TLA": drawn(generator=1).models["EW"]}
    content = compare(Finals(COLUMNS, models))
    row = row_of(content, "EW")
    assert row["delta_i"] is not None
    assert row["delta_i_interval"] is row["delta_e_interval"] is None
    assert row["score_intervals"] is not None
    assert content["statements"][0].startswith("ΔI and ΔE have no intervals: a score of STL")
    assert not any("by chance" in line or "reach further down" in line for line in content["statements"])


def test_a_score_in_percent_is_the_mean_of_its_items_to_six_digits():
    finals, contents = drawn(), []
    for off in (2e-5, 2e-4):
        models = {
            method: {
                0: Model(
                    {name: 100 * score + off for name, score in m[0].scores.items()},
                    {name: [100 * item for item in row] for name, row in m[0].items.items()},
                )
            }
            for method, m in finals.models.items()
        }
        contents.append(compare(Finals(COLUMNS, models)))
    assert contents[0]["no_intervals"] is None
    assert contents[1]["no_intervals"] == "the score of STL on a is not the mean of its items"


def test_intervals_of_losses_hold_none_where_there_is_none():
    """Noise alone makes some tasks lose: percentiles of the draws leave 0 out in one of four."""
    held = []
    for generator in range(25):
        content = compare(drawn(n=100, generator=generator), draws=200)
        held += [row_of(content, name)["delta_e_interval"][0] == 0 for name in ("EW", "CoTBal")]
    assert sum(held) >= 0.85 * len(held)


def test_the_interval_of_a_difference_covers_it():
    """All methods equally good: in 95 of 100 samples the interval holds 0, give or take chance."""
    inside = 0
    for number in range(100):
        row = row_of(compare(drawn(n=150, generator=number), draws=400), "CoTBal")
        inside += row["delta_i_difference_interval"][0] <= 0 <= row["delta_i_difference_interval"][1]
    # Binomial(100, .95): outside 88..100 once in two hundred times.
    assert 88 <= inside <= 100


def test_the_interval_of_a_score_is_that_of_the_mean_of_its_items():
    row = row_of(compare(drawn(n=200, chance=0.3), draws=10_000), "CoTBal")
    for name, share in row["scores"].items():
        error = (share * (1 - share) / 200) ** 0.5
        # 1.96, of 10,000 draws and of steps of 1/200.
        ends = [(end - share) / error for end in row["score_intervals"][name]]
        assert ends == pytest.approx([-1.96, 1.96], abs=0.12)


def test_items_that_belong_together_widen_the_interval():
    finals = drawn(n=40)
    doubled = {
        method: {0: Model(m[0].scores, {c: [v for v in row for _ in "12"] for c, row in m[0].items.items()})}
        for method, m in finals.models.items()
    }
    pairs = {column.name: [place // 2 for place in range(80)] for column in COLUMNS}
    plain, loose, tied = (
        row_of(compare(each), "CoTBal")["delta_i_interval"]
        for each in (finals, Finals(COLUMNS, doubled), Finals(COLUMNS, doubled, pairs))
    )
    assert tied == pytest.approx(plain)
    assert loose[1] - loose[0] < 0.85 * (tied[1] - tied[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: Model(m.scores), "there are no scores by item of EW on a"),
        (
            lambda m: Model({**m.scores, "a": 0.9}, m.items),
            "the score of EW on a is not the mean of its items",
        ),
        (
            lambda m: Model({**m.scores, "a": 1.0}, {**m.items, "a": [1.0, 1.0]}),
            "a was scored on different items: 2, 60 of them",
        ),
    ],
)
def test_without_the_same_items_there_are_no_intervals_and_it_says_why(change, reason):
    finals = drawn()
    content = compare(Finals(COLUMNS, {**finals.models, "EW": {0: change(finals.models["EW"][0])}}))
    assert content["no_intervals"] == reason
    assert row_of(content, "CoTBal")["delta_i_interval"] is None
    assert row_of(content, "CoTBal")["delta_i"] is not None


def test_items_that_all_belong_together_are_one_and_give_no_interval():
    finals = drawn()
    content = compare(Finals(COLUMNS, finals.models, {"a": [3] * 60}))
    assert content["no_intervals"] == "all items of a belong together"
    assert compare(Finals(COLUMNS, finals.models, {"a": [3, 4] * 30}))["no_intervals"] is None


def test_methods_of_other_seeds_give_no_interval():
    models = {**drawn(seeds=(0, 1)).models, "EW": drawn(seeds=(0, 2)).models["EW"]}
    reason = compare(Finals(COLUMNS, models))["no_intervals"]
    assert reason == "the methods were trained under different seeds"


def test_without_its_baseline_there_are_scores_alone():
    finals = drawn()
    content = compare(finals, baseline="best")
    assert content["baseline"] is None
    known = ", ".join(finals.models)
    told = f"ΔI and ΔE need the baseline best, which is not among the finished models ({known})."
    assert told in content["statements"]
    zero = Model({**finals.models["STL"][0].scores, "a": 0.0}, {})
    content = compare(Finals(COLUMNS, {**finals.models, "STL": {0: zero}}))
    assert row_of(content, "EW")["delta_i"] is None
    assert any("a, a: expected a value > 0" in line for line in content["statements"])


def test_what_is_not_finished_is_named_and_left_out():
    finals = drawn()
    part = Model({"a": 0.5})
    content = compare(Finals(COLUMNS, {**finals.models, "TLA": {0: part}, "DWA": {}}))
    assert [row["name"] for row in content["methods"]] == list(METHODS)
    assert content["missing"] == {"TLA": ["b/one", "b/two", "c"], "DWA": ["a", "b/one", "b/two", "c"]}
    assert "Not finished, and so left out: TLA, DWA." in content["statements"]
    two = drawn(seeds=(0, 1))
    halves = {**two.models, "TLA": {0: two.models["EW"][0], 1: part}}
    assert compare(Finals(COLUMNS, halves))["missing"] == {"TLA": ["b/one", "b/two", "c"]}
    with pytest.raises(ValueError, match="no method has all its scores; missing: TLA: b/one, b/two, c"):
        compare(Finals(COLUMNS, {"TLA": {0: part}}))
    with pytest.raises(ValueError, match="no model of GradNorm; there are STL, EW, CoTBal"):
        compare(finals, ["GradNorm"])


def test_statements_tell_what_is_beyond_the_noise_and_where_the_scores_are_from():
    finals = drawn(n=400)
    better = {c.name: [0.0] * 400 if c.better == "lower" else [1.0] * 400 for c in COLUMNS}
    good = Model({name: row[0] for name, row in better.items()}, better)
    columns = (Column("a", source="validation"), *COLUMNS[1:])
    content = compare(Finals(columns, {**finals.models, "CoTBal": {0: good}}))
    assert content["statements"][0].startswith("No test scores: a has no test file")
    assert "ΔI against EW, for these trainings alone: better for CoTBal." in content["statements"]
    swapped = compare(Finals(COLUMNS, {**finals.models, "CoTBal": {0: good}}), reference="CoTBal")
    assert any(
        line.startswith("ΔI against CoTBal, for these trainings alone: worse for EW")
        for line in swapped["statements"]
    )


@pytest.mark.parametrize(
    ("details", "told"),
    [
        (({"weights": {"a": 1.0, "b": 0.5}}, {"weights": {"a": 2.0, "b": 1.0}}), {"a": 1.5, "b": 0.75}),
        (({"weights": {"a": 1.0}}, {}), None),
        (({}, {}), None),
        (({"rule": {"rule": "DWA"}, "weights": {"a": 1.0}}, {"rule": {"rule": "DWA"}}), "DWA"),
    ],
)
def test_the_weights_told_are_the_mean_over_the_seeds(details, told):
    finals = drawn(seeds=(0, 1))
    models = {seed: Model(finals.models["EW"][seed].scores, {}, each) for seed, each in enumerate(details)}
    assert row_of(compare(Finals(COLUMNS, {**finals.models, "EW": models})), "EW")["weights"] == told


def test_finals_go_through_their_file(tmp_path):
    finals = drawn(seeds=(0, 3))
    details = {"weights": {"a": 1.0, "b": 0.5, "c": 1.5}, "models": {"final EW": "out/1"}}
    model = finals.models["EW"][3]
    models = {
        **finals.models,
        "EW": {0: finals.models["EW"][0], 3: Model(model.scores, model.items, details)},
    }
    written = Finals(COLUMNS, models, {"a": [0] * 60}, {"a": "1f"})
    path = write_finals(tmp_path / "finals.json", written)
    assert read_finals(path) == written
    # As of an earlier version.
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert read_finals(path) == Finals(COLUMNS, models, {"a": [0] * 60})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[]", "a.json: expected what `cotbal train` wrote"),
        ("a.json", '{"kind": "finals", "schema_version": 2}', "schema_version: expected 1, got 2"),
        ("a.csv", "model,a\nx,1\n", "expected the header 'run,<task>"),
        ("a.csv", "run,a\n", "a row per model"),
        ("a.csv", "run,a\nx,1\nx,2\n", "row 'x': expected it once, with 1 scores"),
        ("a.csv", "run,a\nx,one\n", "row 'x', task 'a': expected a number, got 'one'"),
        ("a.csv", "Run,a\nx,nan\n", "row 'x', task 'a': expected a finite number, got nan; leave the row"),
        ("a.csv", "run,a,\nx,1,\n", "each column of the header, got none in the last of 3; remove the comma"),
        ("a.csv", "run;a\nx;1\n", "got 'run;a'; separate the cells by commas"),
        # Whatever stood there once meant that lower is better.
        (
            "a.csv",
            "run,a\ntransform,higher\nx,1\n",
            r"transforms\['a'\]: expected 'reciprocal' .* got 'higher'",
        ),
    ],
)
def test_a_file_of_something_else_is_told(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_finals(tmp_path / name)


def test_items_come_with_a_csv_and_are_those_of_its_columns(tmp_path):
    path, items = tmp_path / "a.csv", tmp_path / "items.json"
    path.write_text("run,a,b\nSTL,0.5,0.5\nours,1,0.5\n")
    halves = {"a": [0, 1], "b": [1, 0]}
    content = {"schema_version": 1, "items": {"STL": halves, "ours": {**halves, "a": [1, 1]}}}
    items.write_text(json.dumps(content))
    found = read_finals(path, items)
    assert found.models["ours"][0].items == {"a": [1, 1], "b": [1, 0]}
    assert compare(found)["no_intervals"] is None
    items.write_text(json.dumps({**content, "items": {"STL": {"c": [1, 0]}}}))
    with pytest.raises(ValueError, match=r"items\['STL'\]: no such column 'c'"):
        read_finals(path, items)
    items.write_text(json.dumps({**content, "strata": {"a": [0, 1]}}))
    with pytest.raises(ValueError, match=r"a.csv: items: expected no strata.* got those of a; .*TASK/SET"):
        read_finals(path, items)
    with pytest.raises(ValueError, match="holds its own; they belong to a CSV"):
        read_finals(write_finals(tmp_path / "finals.json", drawn()), items)


def test_a_transform_says_that_lower_is_better(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("run,a,b\ntransform,reciprocal,\nSTL,2,1\nours,1,1.5\n")
    row = row_of(compare(read_finals(path)), "ours")
    assert row["improvement"] == {"a": 0.5, "b": 0.5}


def test_nothing_is_compared_with_equal_weights_where_they_are_the_baseline():
    content = compare(drawn(), baseline="EW")
    assert (content["baseline"], content["reference"]) == ("EW", None)
    assert row_of(content, "CoTBal")["delta_i_difference"] is None
