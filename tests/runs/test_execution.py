import dataclasses
import shutil
from pathlib import Path

import pytest

from cotbal.runs.execution import Execution
from cotbal.runs.plan import LateSpec, Plan
from cotbal.runs.store import Record, Store, run_key
from tests.runs.fake_runs import small_plan, spec


def finish(execution, name, value=None, running=(), finished=1.0):
    job = execution.jobs[name]
    folder = execution.store.folder(job.key)
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(job.key, {"value": value or name}, 0.0, finished, 1.0, job.made_from)
    execution.store.write(record, function=job.spec.function, settings=job.spec.settings)
    return execution.take_up(running)


def test_runs_start_when_what_they_need_has_finished_and_the_longest_chain_first(tmp_path):
    execution = Execution(small_plan(tmp_path / "journal"), Store(tmp_path))
    assert execution.take_up() == {}
    order = []
    while not execution.over:
        job = execution.next_job(())
        order.append(job.name)
        finish(execution, job.name)
    assert order == ["s/base", "s/probe2", "s/probe1", "s/probe0", "s/final", "s/beside", "s/short"]
    assert execution.records["s/final"].result == {"value": "s/final"}


def test_late_run_is_built_from_results_and_goes_to_the_front(tmp_path):
    execution = Execution(small_plan(tmp_path / "journal"), Store(tmp_path))
    execution.take_up()
    for name in ("s/base", "s/probe0", "s/probe1"):
        finish(execution, name, value=name[-1])
    assert "s/final" not in execution.jobs
    finish(execution, "s/probe2", value="2")
    final = execution.next_job(())
    assert final.name == "s/final"
    assert final.spec.settings["value"] == "0+1+2"
    assert final.needs == {"base": str(tmp_path / "runs" / execution.records["s/base"].key)}


def test_other_results_of_needed_runs_make_another_run(tmp_path):
    keys = set()
    for value in ("1", "2"):
        plan = Plan(
            [spec("base", tmp_path / "journal", value=value), spec("next", tmp_path / "journal", ("base",))]
        )
        execution = Execution(plan, Store(tmp_path))
        execution.take_up()
        finish(execution, "base")
        keys.add(execution.jobs["next"].key)
    assert len(keys) == 2


def test_a_run_that_is_done_again_takes_with_it_what_was_made_from_its_earlier_result(tmp_path):
    plan = Plan([spec("base", tmp_path / "j"), spec("next", tmp_path / "j", ("base",))])
    for finished in (1.0, 2.0):
        execution = Execution(plan, Store(tmp_path))
        execution.take_up()
        finish(execution, "base", finished=finished)
        assert list(execution.jobs) == ["next"]
        finish(execution, "next", finished=finished)
        assert execution.over
        shutil.rmtree(execution.store.folder(execution.records["base"].key))


def test_second_start_takes_up_everything_late_runs_included(tmp_path):
    first = Execution(small_plan(tmp_path / "journal"), Store(tmp_path))
    first.take_up()
    while not first.over:
        finish(first, first.next_job(()).name)
    second = Execution(small_plan(tmp_path / "journal"), Store(tmp_path))
    assert second.take_up() == first.records
    assert second.over


def test_run_that_has_written_its_result_but_not_said_so_is_not_taken_up_by_another(tmp_path):
    plan = Plan([spec("a", tmp_path / "journal"), spec("b", tmp_path / "journal")])
    execution = Execution(plan, Store(tmp_path))
    execution.take_up()
    running = {execution.jobs["b"].key}
    finish(execution, "b", running=running)
    assert list(finish(execution, "a", running=running)) == ["a"]
    assert list(execution.take_up()) == ["b"]


def test_needs_that_would_share_a_name_are_refused(tmp_path):
    journal = tmp_path / "journal"
    plan = Plan([spec("x/base", journal), spec("y/base", journal), spec("z", journal, ("x/base", "y/base"))])
    execution = Execution(plan, Store(tmp_path))
    execution.take_up()
    finish(execution, "x/base")
    with pytest.raises(ValueError, match="needs of 'z'"):
        finish(execution, "y/base")


def test_late_run_that_cannot_be_made_is_named(tmp_path):
    def fail(results):
        raise ValueError("task 'x' has no gain")

    plan = Plan([spec("a", tmp_path / "journal"), LateSpec("seed 1/final", 1, ("a",), fail)])
    execution = Execution(plan, Store(tmp_path))
    execution.take_up()
    with pytest.raises(ValueError, match="run 'seed 1/final' cannot be made: task 'x' has no gain"):
        finish(execution, "a")


def test_two_names_of_one_run_are_run_once(tmp_path):
    def same(results):
        return spec("late", tmp_path / "journal", value=results["base"]["value"])

    plan = Plan(
        [
            spec("base", tmp_path / "journal"),
            LateSpec("x", 1, ("base",), same),
            LateSpec("y", 1, ("base",), same),
        ]
    )
    execution = Execution(plan, Store(tmp_path))
    execution.take_up()
    finish(execution, "base")
    job = execution.next_job(())
    assert execution.next_job({job.key}) is None
    assert set(finish(execution, job.name)) == {"x", "y"}


def test_failed_run_holds_back_only_what_needs_it(tmp_path):
    execution = Execution(small_plan(tmp_path / "journal"), Store(tmp_path))
    execution.take_up()
    finish(execution, "s/base")
    execution.give_up(execution.jobs["s/probe1"], "no disk")
    while not execution.over:
        finish(execution, execution.next_job(()).name)
    assert execution.failures == {"s/probe1": "no disk"}
    assert set(execution.plan) - set(execution.records) == {"s/probe1", "s/final"}


def test_what_a_run_is_told_beside_its_settings_does_not_change_its_key():
    plain = spec("a", Path("journal"))
    assert run_key(dataclasses.replace(plain, context={"data": "elsewhere"})) == run_key(plain)
