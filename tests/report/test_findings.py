import json
import re
import shutil
import subprocess

import pytest
import torch

from cotbal.estimate import Scores, estimate_weights
from cotbal.estimate.rule_names import RULES
from cotbal.estimate.uncertainty import uncertainty
from cotbal.report.card import card
from cotbal.report.figures import draw_figures
from cotbal.report.findings import Settings, estimate_results
from cotbal.report.page import _reasons, render_page
from cotbal.report.page_tables import gains_table
from tests.estimate.test_draws_without_value import FEW
from tests.report.estimate_example import make_scores, without_items
from tests.report.reading import Page

RUNS = {
    "trainings": [
        {
            "name": "mini",
            "state": "finished",
            "samples": 64,
            "seconds": 3700.0,
            "evaluations": 4,
            "evaluated": 3,
            "evaluation_seconds": 65.0,
            "reason": "score.py: no such <file>",
        }
    ],
    "totals": {"runs": 5, "finished": 4, "failed": 1, "device_hours": 8.25, "device": "GPU", "again": 2},
}


@pytest.fixture(scope="module")
def scores():
    return make_scores()


@pytest.fixture(scope="module")
def results(scores):
    return estimate_results([scores], Settings(fixed={"chat": 1.0}), source="scores in scores.csv")


@pytest.fixture(scope="module")
def html(results):
    return render_page(results, runs=RUNS)


@pytest.fixture(scope="module")
def lost():
    return estimate_results([make_scores(lost=(2,))], Settings(on_unidentified="drop"), source="seed 0")


@pytest.fixture(scope="module")
def bare(scores):
    return estimate_results([without_items(scores)], Settings(), source="seed 0")


def test_weights_and_intervals_of_every_rule_are_in_the_table(scores, results, html):
    noise, rows = uncertainty(scores), Page(html).tables["weights"]
    rules = ["cotbal", "contribution", "one2all", "all2one", "difficulty"]
    for place, task in enumerate(scores.tasks):
        for column, rule in enumerate(rules, start=1):
            low, high = noise.rules[rule].low[place].item(), noise.rules[rule].high[place].item()
            weight = estimate_weights(scores, rule=rule)[task]
            assert rows[place + 1][column] == f"{weight:.3f}[{low:.2f}, {high:.2f}]"
    assert rows[-1] == ["chat (fixed)", *["1.000"] * 5]
    json.dumps(results, allow_nan=False)


def test_intervals_are_drawn_under_every_rule(scores, results):
    noise, figures = uncertainty(scores), draw_figures(results)
    panels = figures["weights"].axes
    assert [axes.get_title() for axes in panels] == [
        "CoTBal",
        "contribution",
        "one2all",
        "all2one",
        "difficulty",
    ]
    for axes, rule in zip(panels, RULES, strict=False):
        bars = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2][
            : len(scores.tasks)
        ]
        of_rule = noise.rules[rule]
        assert bars == [
            [low, high] for low, high in zip(of_rule.low.tolist(), of_rule.high.tolist(), strict=True)
        ]
    bars = [list(line.get_xdata()) for line in figures["difficulty"].axes[0].lines]
    assert noise.difficulty[:, 0].tolist() in bars


def test_cells_that_may_be_0_have_a_dot_and_their_interval(scores, results):
    axes = draw_figures(results)["contribution"].axes[0]
    C, n = uncertainty(scores).contribution, len(scores.tasks)
    cells = [(i, j) for i in range(n) for j in range(n) if i != j]
    zero = {(i, j) for i, j in cells if not C.bounded[i, j] or C.low[i, j] <= 0 <= C.high[i, j]}
    (dots,) = (dots for dots in axes.collections if dots.get_gid() == "inside-noise")
    assert {(int(y), int(x)) for x, y in dots.get_offsets().tolist()} == zero
    assert zero
    assert {low > 0 for low in C.low[~C.contains(torch.zeros(n, n))].tolist()} == {True, False}
    assert sum(text.get_text().startswith("[") for text in axes.texts) == len(cells)


def test_a_denominator_inside_its_noise_is_named_and_takes_the_intervals(lost):
    page = Page(render_page(lost))
    assert "The denominator of C lies inside its noise for 1 of 4 tasks: ocr." in page.text
    assert "have no intervals: cotbal, contribution, one2all, all2one." in page.text
    assert [row[-1] for row in page.tables["gains"][1:]] == ["yes", "yes", "no", "yes"]
    rows = page.tables["weights"][1:]
    assert all("[" not in cell for row in rows for cell in row[1:5])
    assert all("[" in row[5] for row in rows)
    assert "order" not in page.tables


def test_a_difficulty_that_some_draws_lose_takes_the_intervals_that_need_it():
    mini, probes, items = FEW
    few = Scores([*"xbc"], mini, probes, items=items)
    found = estimate_results([few], Settings(on_unidentified="drop", rule="difficulty"), source="seed 0")
    page = Page(render_page(found))
    assert "Weights that need the difficulty have no intervals: the full score of task 'x'" in page.text
    assert "differ from equal weights" not in page.text
    assert json.loads(json.dumps(found, allow_nan=False))["intervals"]["difficulty"][0] is None


def test_weights_that_the_scores_do_not_allow_are_refused_in_words():
    found = estimate_results([make_scores(lost=(2,))], Settings(), source="seed 0")
    page = Page(render_page(found))
    assert found["statements"][0].startswith("There are no weights under rule cotbal: V(ocr + mini)")
    assert page.tables["weights"][0] == ["task", "difficulty"]
    assert "import torch" not in page.text


def test_where_the_scores_allow_equal_weights_alone_there_is_a_page():
    """As of a hard task that scores 0 with its mini subset beside one that its own data does not help."""
    rows = {"mini": (0, 30, 20), "x": (30, 30, 20), "b": (2, 31, 20), "c": (2, 30, 40)}
    items = {
        run: {task: [1.0] * n + [0.0] * (50 - n) for task, n in zip("xbc", counts, strict=True)}
        for run, counts in rows.items()
    }
    mini, *probes = [[n / 50 for n in counts] for counts in rows.values()]
    found = estimate_results([Scores([*"xbc"], mini, probes, items=items)], Settings(), source="seed 0")
    assert list(found["by_seed"]["0"]["weights"]) == ["equal"]
    page = Page(render_page(found))
    assert "There are no weights under rule cotbal: V(b + mini)" in page.text
    assert page.tables["weights"][0] == ["task"]


@pytest.mark.parametrize("n_items", [100, 4000])
def test_whether_weights_are_noise_is_said(n_items):
    found = estimate_results([make_scores(2, n_items)], Settings(rule="difficulty"), source="seed 0")
    less = found["intervals"]["weights"]["difficulty"]["is_noise"]
    said = (
        f"under rule difficulty differ from equal weights by {'less' if less else 'more'} than their noise."
    )
    assert said in found["statements"][0]
    assert less == (n_items == 100)


def test_without_items_it_says_that_there_are_no_intervals(bare):
    page = Page(render_page(bare))
    assert "There are no intervals, as no per-item scores were given" in page.text
    assert "± " not in page.text
    assert not any("[" in cell for row in page.tables["weights"] for cell in row)


def test_the_page_loads_nothing_and_its_ids_are_unique(html):
    page = Page(html)
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in page.references)
    assert len(page.ids) == len(set(page.ids))
    assert "<b>x</b>" not in html
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org)", html)
    assert html.count('<svg role="img" aria-label=') == 4


def test_state_and_cost_of_the_runs_are_on_page_and_card(html, results):
    page, text = Page(html), card(results, RUNS)
    assert page.tables["runs"][1] == ["mini", "finished", "64", "1 h 1 min", "3 of 4", "1 min 5 s"]
    line = "4 of 5 runs are finished, 1 failed; they took 8.25 GPU-hours, without the earlier tries of 2."
    assert line in page.text
    assert line in text
    assert "score.py: no such <file>" in page.text
    assert "| mini | finished | 64 | 1 h 1 min | 3 of 4 | 1 min 5 s |" in text
    assert all(statement in text for statement in results["statements"])
    assert "| \\<b\\>x\\</b\\> |" in text


def test_without_scores_the_page_is_that_of_the_runs():
    page = Page(render_page(None, runs=RUNS))
    assert list(page.tables) == ["runs"]
    assert "There are no weights yet" in page.text
    assert "There are no weights yet" in card(None, RUNS)


@pytest.mark.parametrize(
    "change", [{"rule": "best"}, {"temperature": 0.0}, {"on_unidentified": "x"}, {"precise": True}]
)
def test_a_mistake_in_the_settings_raises(scores, change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}|single_mini"):
        estimate_results([scores], Settings(**change), source="")


CALL = """
const vm = require("vm"), input = JSON.parse(require("fs").readFileSync(0, "utf8")), scope = {};
vm.createContext(scope);
vm.runInContext(input.script, scope);
console.log(JSON.stringify(input.calls.map((c) => scope.cotbalWeights(c[0], input.signals, c[1], c[2]))));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="the page's script needs node to run here")
def test_the_what_if_of_the_page_is_the_rules_of_python(scores, html):
    data, script = (found.group(1) for found in re.finditer(r"<script[^>]*>(.*?)</script>", html, re.DOTALL))
    calls = [(rule, T, alpha) for rule in RULES for T in (0.05, 0.5, 2.0) for alpha in (0.0, 0.3, 1.0)]
    told = json.dumps({"script": script, "signals": json.loads(data)["signals"], "calls": calls})
    done = subprocess.run(
        ["node", "-e", CALL], input=told, capture_output=True, text=True, check=True, timeout=60
    )
    for (rule, T, alpha), weights in zip(calls, json.loads(done.stdout), strict=True):
        expected = estimate_weights(scores, rule=rule, temperature=T, alpha=alpha)
        assert weights == pytest.approx([expected[task] for task in scores.tasks], rel=1e-12)


PRECISE = {"single_mini": [0.4, 0.5, 0.7], "single_full": [0.69, 0.75, 0.25]}
PROBES = [[0.7, 0.62, 0.55], [0.52, 0.8, 0.5], [0.52, 0.61, 0.2]]
TURNED = Scores([*"abc"], [0.5, 0.6, 0.6], PROBES, transforms={"c": "reciprocal"}, **PRECISE)


def test_the_gain_of_a_task_where_lower_is_better_is_that_of_its_turned_scores():
    """Its difference as measured is below 0, and no denominator of C."""
    found = estimate_results([TURNED], Settings(), source="seed 0")
    page = Page(render_page(found))
    assert page.tables["gains"][3] == ["c (score)", "0.6000", "0.2000", f"{5 - 1 / 0.6:.4f}", "above 0"]
    note = "Lower is better, and C, D and the difference are of the turned scores: c (reciprocal)."
    assert note in page.text
    assert note in card(found)
    assert "Lower is better" not in Page(render_page({**found, "transforms": {}})).text


def test_the_page_states_the_difficulty_and_the_steps_that_were_taken():
    usual, precise = (
        Page(render_page(estimate_results([TURNED], settings, source="seed 0"))).text
        for settings in (Settings(), Settings(precise=True, step_matched=True))
    )
    assert "1 − Vi(mini) / Vi(i+mini)" in usual
    assert "1 − Vi(mini subset of i alone) / Vi(i in full alone)" in precise
    for text, score in (
        (usual, "mini run divided by that with own data in full ("),
        (precise, "mini subset alone divided by that with own data in full, alone ("),
    ):
        assert f"Each axis is the score of the {score}the dashed ring" in text
    assert "A probe takes more optimizer steps" in usual
    assert "The mini run took as many optimizer steps as the mean probe." in precise
    assert "A probe takes more" not in precise


def test_a_task_without_items_takes_the_intervals_alone(scores):
    """As `cotbal collect` leaves them where one tool gave a score alone; weights and page are there."""
    part = {run: {task: of_run[task] for task in scores.tasks[1:]} for run, of_run in scores.items.items()}
    found = estimate_results(
        [Scores(scores.tasks, scores.mini, scores.probes, items=part)], Settings(), source="seed 0"
    )
    assert found["no_intervals"] == "there are no per-item scores of vqa in every run"
    weights = found["by_seed"]["0"]["weights"]["cotbal"]
    assert weights == dict(estimate_weights(without_items(scores)))
    assert "There are no intervals, as there are no per-item scores of vqa" in Page(render_page(found)).text


def test_one_item_or_one_cluster_takes_the_intervals_alone(scores):
    """As in a trial on an item of each task: the weights are there, and the page says what is not."""
    one = {run: {task: row[:1] for task, row in of_run.items()} for run, of_run in scores.items.items()}
    of_one = {run: {task: row.item() for task, row in of_run.items()} for run, of_run in one.items()}
    rows = [[of_one[run][task] for task in scores.tasks] for run in ("mini", *scores.tasks)]
    trial = Scores(scores.tasks, rows[0], rows[1:], items=one)
    settings = Settings(on_unidentified="drop", rule="equal")
    found = estimate_results([trial], settings, source="seed 0")
    assert found["no_intervals"] == f"all items of {', '.join(scores.tasks)} are one, or belong together"
    task = scores.tasks[1]
    together = {task: [7] * len(scores.items["mini"][task])}
    table = Scores(scores.tasks, scores.mini, scores.probes, items=scores.items, clusters=together)
    found = estimate_results([table], Settings(), source="seed 0")
    assert found["no_intervals"] == f"all items of {task} are one, or belong together"
    assert found["by_seed"]["0"]["weights"]["cotbal"]


def test_a_denominator_in_its_noise_is_not_said_to_be_at_most_0():
    right, wrong = [1.0] * 9 + [0.0], [1.0] * 8 + [0.0] * 2
    items = {"mini": {"a": wrong}, "a": {"a": right}, "b": {"a": wrong}}
    found = estimate_results(
        [Scores(["a", "b"], [0.8, 0.2], [[0.9, 0.3], [0.8, 0.5]], items=items)],
        Settings(on_unidentified="drop"),
        source="",
    )
    assert found["statements"][0].startswith(
        "The denominator of C lies inside its noise for 1 of 2 tasks: a."
    )


def test_a_reciprocal_without_a_value_in_some_draws_is_not_said_to_be_a_denominator_in_its_noise():
    """Its gain is six of its standard errors."""
    right = {"mini": (60, 80, 90), "x": (20, 82, 91), "b": (5, 130, 95), "c": (59, 85, 150)}
    rows = {
        run: {task: [1.0] * n + [0.0] * (200 - n) for task, n in zip("xbc", counts, strict=True)}
        for run, counts in right.items()
    }
    mini, *probes = [[n / 200 for n in counts] for counts in right.values()]
    table = Scores([*"xbc"], mini, probes, items=rows, transforms={"x": "reciprocal"})
    found = estimate_results([table], Settings(), source="seed 0")
    assert "denominator" not in " ".join(found["statements"])
    reason = (
        "Weights that need the contribution have no intervals: the reciprocal of task 'x' has no value in"
    )
    assert [line.startswith(reason) for line in found["statements"]].count(True) == 1
    assert [row[-1] for row in gains_table(found).rows] == ["n/a", "yes", "yes"]
    assert _reasons(found) == {}


def test_a_denominator_far_below_0_is_not_said_to_be_in_its_noise():
    items = {"mini": {"a": 5, "b": 15}, "a": {"a": 15, "b": 14}, "b": {"a": 6, "b": 5}}
    rows = {run: {task: [1.0] * n + [0.0] * (20 - n) for task, n in of.items()} for run, of in items.items()}
    table = Scores(["a", "b"], [0.25, 0.75], [[0.75, 0.7], [0.3, 0.25]], items=rows)
    found = estimate_results([table], Settings(on_unidentified="drop"), source="")
    assert found["statements"][0].startswith("The denominator of C is not above 0 for 1 of 2 tasks: b.")
    reason = found["intervals"]["unidentified"]["b"]
    assert reason.startswith("V(b + mini) - V(mini) of task 'b' is -0.5, only -")


@pytest.mark.parametrize(
    ("hours", "said"), [(8.25, "8.25"), (997, "997"), (999.7, "1,000"), (12345.6, "12,346")]
)
def test_many_hours_are_spelled_in_full(hours, said):
    runs = {**RUNS, "totals": {**RUNS["totals"], "device_hours": hours}}
    assert f"they took {said} GPU-hours" in card(None, runs)


def test_a_page_without_weights_does_not_say_that_they_are_shrunk(scores):
    """As of `shrink: true` in the file of a project whose evaluation writes no items."""
    found = estimate_results([without_items(scores)], Settings(shrink=True), source="seed 0")
    told = " ".join(found["statements"])
    assert "There are no weights under rule cotbal: items: expected the per-item scores" in told
    assert not re.search("shrunk|pulled", Page(render_page(found)).text)
