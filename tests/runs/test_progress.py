import io

import pytest
from rich.console import Console

from cotbal.progress import LiveProgress, PlainProgress, progress_on
from cotbal.runs.course import Course, in_words
from cotbal.runs.plan import Plan
from cotbal.runs.store import Record, RunSpec

RECORD = Record("k", {}, 0.0, 1.0, 1.0)


def spec(name, steps, *needs):
    return RunSpec(name, "m:f", {}, steps, needs)


PLAN = Plan(
    [spec("base", 10), spec("long", 40, "base"), spec("short", 20, "base"), spec("late", 30, "short")]
)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3600, "1 h 00 min"),
        (3725, "1 h 02 min"),
    ],
)
def test_duration_in_words(seconds, words):
    assert in_words(seconds) == words


def test_time_left_follows_the_longest_way_and_the_speed_of_one_worker(clock):
    course = Course(clock)
    course.open(PLAN, {}, workers=2)
    course.start("base")
    assert course.seconds_left() is None
    clock.now = 5.0
    course.advance("base", 10)
    # 2 steps a second; then short 20 and late 30 after one another, long beside them.
    assert course.seconds_left() == pytest.approx(25.0)
    course.finish("base")
    course.start("long")
    course.start("short")
    clock.now = 15.0
    course.advance("long", 20)
    course.advance("short", 10)
    # 40 steps in 5 + 2 x 10 busy seconds; left 10 + 30 in a row.
    assert course.seconds_left() == pytest.approx(40 * 25 / 40)
    assert course.percent == pytest.approx(40.0)


def test_what_is_given_up_and_all_that_needs_it_is_no_work_any_more(clock):
    course = Course(clock)
    course.open(PLAN, {"base": RECORD}, workers=1)
    course.start("long")
    clock.now = 10.0
    course.advance("long", 20)
    assert course.seconds_left() == pytest.approx((20 + 20 + 30) / 2)
    course.start("short")
    clock.now = 12.5
    course.advance("short", 5)
    course.give_up("short")
    assert (course.done, course.total) == (10 + 20, 10 + 40)
    assert course.seconds_left() == pytest.approx(20 / 2 - 2.5)
    course.finish("long")
    assert course.percent == pytest.approx(100.0)


def test_what_an_earlier_start_has_done_counts_as_done_but_not_for_the_speed(clock):
    course = Course(clock)
    course.open(PLAN, {"base": RECORD, "long": RECORD}, workers=1)
    assert course.percent == pytest.approx(50.0)
    course.start("short")
    clock.now = 10.0
    course.advance("short", 10)
    assert course.seconds_left() == pytest.approx(40.0)


def stages():
    """Two trainings of 100 samples, each with an evaluation of 50 items."""
    trainings = [RunSpec(f"train {i}", "m:train", {}, 100) for i in range(2)]
    evaluations = [RunSpec(f"evaluate {i}", "m:evaluate", {}, 50, (f"train {i}",)) for i in range(2)]
    return Plan([*trainings, *evaluations])


def test_an_item_of_an_evaluation_is_no_sample_of_a_training(clock):
    course = Course(clock)
    course.open(stages(), {}, workers=1)
    course.start("train 0")
    clock.now = 10.0
    course.finish("train 0")
    # Nothing is known of evaluations yet.
    assert course.seconds_left() == pytest.approx(10 + 2 * 5)
    course.start("evaluate 0")
    clock.now = 210.0
    course.finish("evaluate 0")
    assert course.seconds_left() == pytest.approx(10 + 200)
    course.start("train 1")
    clock.now = 220.0
    course.finish("train 1")
    course.start("evaluate 1")
    # An evaluation tells no items: what it has taken so far is over all the same.
    clock.now = 370.0
    assert course.seconds_left() == pytest.approx(50)
    clock.now = 450.0
    assert course.seconds_left() == 0


def test_runs_at_work_do_not_slow_those_to_come(clock):
    course = Course(clock)
    course.open(stages(), {"train 0": RECORD, "train 1": RECORD}, workers=2)
    course.start("evaluate 0")
    course.start("evaluate 1")
    clock.now = 90.0
    course.finish("evaluate 0")
    clock.now = 100.0
    # A command that tells no progress.
    course.advance("evaluate 1", 0)
    assert course.seconds_left() == 0
    course.lose("evaluate 1")
    assert course.seconds_left() == pytest.approx(90)


def test_what_an_earlier_start_has_done_tells_the_pace_until_this_one_does(clock):
    course = Course(clock)
    evaluated = Record("k", {}, 1000.0, 1200.0, 1.0)
    course.open(stages(), {"train 0": RECORD, "train 1": RECORD, "evaluate 0": evaluated}, workers=1)
    assert course.seconds_left() == pytest.approx(200)
    course.start("evaluate 1")
    clock.now = 10.0
    course.advance("evaluate 1", 5)
    assert course.seconds_left() == pytest.approx(90)


def test_lost_run_is_to_be_done_again(clock):
    course = Course(clock)
    course.open(PLAN, {"base": RECORD}, workers=1)
    course.start("long")
    clock.now = 10.0
    course.advance("long", 39)
    course.lose("long")
    assert course.done == 10


def resuming(n_runs=2):
    """Of those that may go on from a checkpoint."""
    return Plan([RunSpec(f"train {i}", "m:train", {}, 100, (), {"resume": True}) for i in range(n_runs)])


def test_steps_before_a_checkpoint_are_done_and_tell_no_pace(clock):
    course = Course(clock)
    course.open(resuming(), {}, workers=1)
    course.start("train 0")
    clock.now = 10.0
    # The start took 10 s; 80 steps are of the try before.
    course.advance("train 0", 80)
    assert course.done == 80
    assert course.seconds_left() is None
    clock.now = 40.0
    course.advance("train 0", 90)
    assert course.seconds_left() == pytest.approx(4 * (10 + 100))
    clock.now = 80.0
    course.finish("train 0")
    course.start("train 1")
    assert course.seconds_left() == pytest.approx(4 * 100)


def test_run_that_tells_no_progress_tells_its_pace_at_the_end(clock):
    course = Course(clock)
    course.open(resuming(), {}, workers=1)
    course.start("train 0")
    clock.now = 50.0
    course.finish("train 0")
    assert course.seconds_left() == pytest.approx(50)


def test_a_resumed_run_that_tells_no_progress_tells_no_pace(clock):
    course = Course(clock)
    course.open(resuming(3), {}, workers=1)
    course.start("train 0")
    clock.now += 1
    course.finish("train 0", resumed=True)
    assert (course.done, course.seconds_left()) == (100, None)
    course.start("train 1")
    clock.now += 400
    course.finish("train 1")
    assert course.seconds_left() == pytest.approx(400)


def test_earlier_result_of_a_resumed_run_tells_no_pace(clock):
    """Its seconds are those after the checkpoint."""
    course = Course(clock)
    found = {
        f"train {i}": Record("k", {"resumed": True} if i else {}, 0.0, 400.0 - 399 * i, 1.0) for i in (0, 1)
    }
    course.open(resuming(3), found, workers=1)
    assert course.seconds_left() == pytest.approx(400)


def test_steps_beyond_the_announced_ones_do_not_pass_the_end(clock):
    course = Course(clock)
    course.open(PLAN, {}, workers=1)
    course.start("base")
    course.advance("base", 99)
    assert course.done == 10


def told(progress):
    with progress:
        progress.opened(PLAN, {"base": RECORD}, 2)
        progress.started("short")
        progress.advanced("short", 5)
        progress.lost("short", "its worker process died (killed by SIGKILL)")
        progress.started("short")
        progress.advanced("short", 20)
        progress.waited()
        progress.finished("short", RECORD)
        progress.failed("long", "run 'long' failed in [x]")


def test_plain_lines_tell_starts_ends_losses_and_the_whole(clock):
    stream = io.StringIO()
    told(PlainProgress(stream, lambda record: "mean score 0.500", clock))
    assert stream.getvalue().splitlines() == [
        "continuing: 1 of 4 runs are finished; the rest on 2 worker processes",
        "start   short (20 steps)",
        "again   short: its worker process died (killed by SIGKILL)",
        "start   short (20 steps)",
        "done    short: 1.0 s, mean score 0.500; 30 %, about 4 s left",
        "failed  run 'long' failed in [x]",
    ]


def test_plain_lines_come_at_most_twice_a_minute_when_nothing_starts_or_ends(clock):
    stream = io.StringIO()
    progress = PlainProgress(stream, lambda record: "", clock)
    progress.opened(PLAN, {}, 1)
    progress.started("base")
    for second in range(1, 100):
        clock.now = float(second)
        progress.advanced("base", second // 10)
    lines = stream.getvalue().splitlines()[2:]
    assert len(lines) == 3
    assert lines[0] == "        3 %, about 16 min 10 s left"


def test_live_view_shows_the_whole_and_a_line_per_finished_run():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    told(LiveProgress(console, lambda record: "mean score 0.500"))
    text = stream.getvalue()
    assert "continuing: 1 of 4 runs are finished" in text
    assert "all runs" in text
    assert "again short: its worker process died" in text
    assert "done short: 1.0 s, mean score 0.500" in text
    assert "failed run 'long' failed in [x]" in text


def test_live_view_shows_the_brackets_of_a_name():
    stream, name = io.StringIO(), "VQA [en]"
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    with LiveProgress(console, lambda record: "") as progress:
        progress.opened(Plan([RunSpec(name, "f", {}, 1)]), {}, 1)
        progress.started(name)
        progress.waited()
        progress._view.refresh()
        progress.finished(name, RECORD)
    bar, _, line = stream.getvalue().partition("done ")
    assert name in bar
    assert line.startswith(f"{name}: 1.0 s")


def queued(progress):
    with progress:
        progress.opened(PLAN, {}, 3)
        for place, name in enumerate(PLAN):
            progress.queued(name, f"12_{place}")
        progress.started("base")
        progress.waited()
        progress.noted("the jobs in the queue go on")


def test_jobs_of_a_cluster_are_named_with_their_ids(clock):
    stream = io.StringIO()
    queued(PlainProgress(stream, lambda record: "", clock, crew="Slurm job(s)"))
    assert stream.getvalue().splitlines() == [
        "4 runs on 3 Slurm jobs",
        *(f"queued  {name} (job 12_{place})" for place, name in enumerate(PLAN)),
        "start   base (10 steps)",
        "note    the jobs in the queue go on",
    ]
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=150, color_system=None)
    queued(LiveProgress(console, lambda record: "", "Slurm job(s)"))
    text = stream.getvalue()
    assert "4 runs on 3 Slurm jobs" in text
    last = text[text.rindex("all runs") :].splitlines()
    assert "estimating the time left, 3 queued" in last[0]
    bars = {line.split()[0]: line.partition("job ")[2].strip() for line in last[1:5]}
    assert bars == {"base": "12_0", "long": "12_1 queued", "short": "12_2 queued", "late": "12_3 queued"}
    assert "note the jobs in the queue go on" in text


def test_live_view_shows_a_few_of_the_queue_and_the_next_as_these_start(monkeypatch):
    monkeypatch.setattr("cotbal.progress.QUEUED_SHOWN", 2)
    progress = LiveProgress(Console(file=io.StringIO(), force_terminal=True), lambda record: "")
    queued(progress)
    assert sorted(progress._bars) == ["base", "long", "short"]
    progress.lost("long", "job 12_1: CANCELLED")
    assert sorted(progress._bars) == ["base", "late", "short"]


def test_view_fits_the_console():
    assert isinstance(progress_on(Console(file=io.StringIO()), lambda record: ""), PlainProgress)
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(progress_on(terminal, lambda record: ""), LiveProgress)


def test_first_line_when_everything_is_finished():
    stream = io.StringIO()
    PlainProgress(stream, lambda record: "").opened(PLAN, dict.fromkeys(PLAN, RECORD), 1)
    assert stream.getvalue() == "all 4 runs are finished\n"
