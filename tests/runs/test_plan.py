import time

import pytest

from cotbal.runs.plan import LateSpec, Plan
from cotbal.runs.store import RunSpec


def spec(name, steps, *needs):
    return RunSpec(name, "module:function", {"name": name}, steps, needs)


# base 10 -> probes 5 and 7 -> final 20; ew 20 and stl 3 wait for the base alone.
DEMO = Plan(
    [
        spec("base", 10),
        spec("p", 5, "base"),
        spec("q", 7, "base"),
        LateSpec("final", 20, ("base", "p", "q"), lambda results: spec("final", 20, "base")),
        spec("ew", 20, "base"),
        spec("stl", 3, "base"),
    ]
)


def test_runs_that_others_wait_for_come_first_then_the_longest():
    order = sorted(DEMO, key=DEMO.urgency, reverse=True)
    assert order == ["base", "q", "p", "final", "ew", "stl"]
    assert [DEMO.urgency(name) for name in order] == [(False, steps) for steps in (37, 27, 25, 20, 20, 3)]


@pytest.mark.parametrize(
    ("workers", "done", "running", "left"),
    [
        (1, {}, [], 65),
        # base 10; q until 17, p until 15; ew from 15 to 35, final from 17 to 37; stl from 35 to 38.
        (2, {}, [], 38),
        (8, {}, [], 37),
        (2, {"base": 4}, ["base"], 34),
        (2, {"base": 10, "p": 5, "q": 7, "final": 15, "ew": 20}, ["final"], 5),
        (2, {"base": 10, "p": 5, "q": 7, "final": 20, "ew": 20, "stl": 3}, [], 0),
    ],
)
def test_what_is_left_is_the_plan_played_through(workers, done, running, left):
    seconds = {name: steps - done.get(name, 0) for name, steps in DEMO.steps.items()}
    assert DEMO.remaining(seconds, running, workers) == left


def test_what_is_left_begins_with_the_longest_run_beside_those_at_work():
    plan = Plan([spec("x", 1), spec("y", 2), spec("z", 3), spec("w", 5)])
    seconds = {"x": 0.1, "y": 0.2, "z": 0.3}
    # z, and y before x beside it.
    assert plan.remaining(seconds, [], 2) == pytest.approx(0.3)
    # y ends first, and z follows it.
    assert plan.remaining({"w": 0.5, "y": 0.2, "z": 0.4}, ["w", "y"], 2) == pytest.approx(0.6)


def test_name_that_occurs_twice():
    with pytest.raises(ValueError, match="'a' occurs twice"):
        Plan([spec("a", 1), spec("a", 2)])


def test_need_that_does_not_come_before():
    with pytest.raises(ValueError, match="'a' needs 'b'"):
        Plan([spec("a", 1, "b"), spec("b", 1)])


def test_time_left_of_thousands_of_runs_is_no_work():
    specs = []
    for run in range(65):
        specs.append(spec(f"train {run}", 100))
        specs += [spec(f"evaluate {run} {task}", 20, f"train {run}") for task in range(64)]
    plan = Plan(specs)
    began = time.process_time()
    assert plan.remaining(plan.steps, [], 8) == pytest.approx((65 * 100 + 65 * 64 * 20) / 8, rel=0.01)
    assert time.process_time() - began < 1.0


def test_what_is_behind_a_run_cannot_start_without_it():
    assert DEMO.behind("q") == {"q", "final"}
    assert DEMO.behind("base") == set(DEMO)
