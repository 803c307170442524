"""The driver against a cluster whose jobs live as each test tells; `test_slurm_node.py` has a real one."""

import re
import time
from pathlib import Path

import pytest

from cotbal.project.slurm import driver
from cotbal.project.slurm.queue import QueuedJob, SlurmError
from cotbal.project.slurm.submission import was_submitted_whole
from cotbal.project.slurm.tickets import (
    Ticket,
    job_name,
    jobs_in_queue,
    read_ticket,
    refuse_beside_jobs,
    slurm_folder,
    write_ticket,
)
from cotbal.runs.store import Store, run_key
from tests.project.slurm_double import GOOD, Cluster, JobNotes, Plan, plan, resources, spec


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, {})


@pytest.fixture
def cluster(store, monkeypatch):
    return Cluster(store, monkeypatch)


def work(store, runs=None, **asked):
    notes = JobNotes()
    return driver.work_on_slurm(runs or plan(), store, notes, resources(**asked)), notes


def test_what_can_start_is_one_array_longest_first_and_nothing_is_left_behind(cluster, store):
    done, notes = work(store)
    assert sorted(done.records) == ["a", "b", "c"]
    assert cluster.submissions == [["b", "a"], ["c"]]
    assert notes.about("queued") == ["b 1_0", "a 1_1", "c 2_0"]
    assert sorted(notes.about("started")) == sorted(notes.about("finished")) == ["a", "b", "c"]
    assert notes.about("opened") == ["0/3 on 3"]
    assert list((slurm_folder(store.out) / "tickets").iterdir()) == []
    again, notes = work(store)
    assert (len(again.records), len(cluster.submissions)) == (3, 2)


def test_at_most_so_many_jobs_are_in_the_queue(cluster, store):
    most = 0

    def count():
        nonlocal most
        most = max(most, sum(job.active for job in cluster.queue.values()))

    runs = Plan([spec(f"r{i}") for i in range(7)])
    for name in runs:
        cluster.lives[name] = [["RUNNING", count, "done"]]
    done, _ = work(store, runs, max_jobs=3)
    assert (len(done.records), most) == (7, 3)


@pytest.mark.parametrize("state", ["CANCELLED", "NODE_FAIL", "PREEMPTED", "FAILED", "BOOT_FAIL", "gone"])
def test_job_that_ends_from_outside_is_submitted_again_until_it_has_happened_three_times(
    cluster, store, state
):
    cluster.lives["a"] = [["RUNNING", state]] * 2
    cluster.lives["b"] = [["RUNNING", state]] * 3
    log = store.folder(run_key(spec("b"))) / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("the last words of b\n")
    done, notes = work(store)
    assert list(done.records) == ["a"]
    assert list(done.failures) == ["b"]
    assert "its job ended 3 times" in done.failures["b"]
    assert done.failures["b"].endswith("the last words of b")
    assert len(notes.about("lost")) == 4
    assert read_ticket(store.out, run_key(spec("b"))) is None
    # Where Slurm may still know of it.
    assert bool(cluster.cancelled) == (state in ("PREEMPTED", "gone"))


def test_jobs_of_runs_that_are_not_in_the_plan_are_named_and_left_alone(cluster, store, monkeypatch):
    monkeypatch.setattr(driver, "was_submitted_whole", lambda out, job: True)
    for name, job in (("old", "98_3"), ("a", "99")):
        ticket = Ticket(run_key(spec(name)), f"s{job}", None, job)
        write_ticket(store.out, ticket)
        cluster.begin(ticket, ["RUNNING"] * 99 if name == "old" else GOOD)
    done, notes = work(store, Plan([spec("a")]))
    assert list(done.records) == ["a"]
    (note,) = notes.about("noted")
    assert note.startswith("jobs of an earlier start go on that do other runs than these")
    assert note.endswith(": 1; scancel 98_3 ends them")
    assert cluster.cancelled == []


def test_requeued_job_is_waited_for(cluster, store):
    cluster.lives["a"] = [["RUNNING", "COMPLETING", "PENDING BeginTime", "PENDING", "RUNNING", "done"]]
    done, notes = work(store)
    assert len(done.records) == 3
    assert cluster.submissions == [["b", "a"], ["c"]]
    assert notes.about("lost") == ["a: job 1_1 is requeued"]
    assert notes.about("started").count("a") == 2
    assert notes.about("noted") == []


def test_bar_of_an_earlier_try_is_not_this_ones_progress(cluster, store, monkeypatch):
    runs = Plan([spec("a", steps=8, work=8)])
    runs["a"].context["steps"] = 4
    log = store.folder(run_key(spec("a"))) / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("3/4 [00:01<00:01")
    told = []
    monkeypatch.setattr(JobNotes, "advanced", lambda self, name, steps: told.append(steps))

    def trains():
        with log.open("a") as stream:
            stream.write("1/4 [")

    cluster.lives["a"] = [["RUNNING", "RUNNING", trains, "RUNNING", "done"]]
    work(store, runs)
    assert {*told} == {2}


def test_state_between_two_of_a_requeue_is_not_the_end(cluster, store, monkeypatch):
    monkeypatch.setattr(driver, "CONFIRM_SECONDS", 0.2)
    cluster.lives["a"] = [["RUNNING", "PREEMPTED", "PENDING", "RUNNING", "done"]]
    done, _ = work(store)
    assert len(done.records) == 3
    assert cluster.submissions == [["b", "a"], ["c"]]


def test_command_that_fails_is_submitted_again_as_often_as_the_file_says(cluster, store, monkeypatch):
    # What has told its failure is not waited for.
    monkeypatch.setattr(driver, "LATE_FILE_SECONDS", 60.0)
    began = time.monotonic()
    cluster.lives["a"] = [["RUNNING", ("fails", "exit status 3\nits log")]]
    cluster.lives["b"] = [["RUNNING", ("fails", "exit status 4\nits log")]] * 2
    done, notes = work(store, retries=1)
    assert list(done.records) == ["a"]
    assert done.failures["b"].startswith("run 'b' failed in ")
    assert done.failures["b"].endswith("exit status 4\nits log")
    assert sorted(notes.about("lost")) == ["a: exit status 3 its log", "b: exit status 4 its log"]
    assert time.monotonic() - began < 30.0


def test_error_in_python_is_told_by_its_last_line(cluster, store, monkeypatch):
    monkeypatch.setattr(driver, "CONFIRM_SECONDS", 0.05)
    error = "Traceback (most recent call last):\n  File x\nKeyError: 'score'\n"
    cluster.lives["a"] = [["RUNNING", ("fails", error), "OUT_OF_MEMORY"], ["RUNNING", ("fails", error)]]
    cluster.lives["b"] = [["RUNNING", ("fails", error)]]
    done, notes = work(store, retries=1)
    assert sorted(notes.about("lost")) == [
        "a: job 1_1 was out of memory; raise resources.slurm.memory_gb. KeyError: 'score'",
        "b: KeyError: 'score'",
    ]
    assert done.failures["a"].endswith(error)


def test_job_that_hangs_in_completing_is_over_where_its_run_has_failed(cluster, store, monkeypatch):
    monkeypatch.setattr(driver, "COMPLETING_SECONDS", 0.0)
    monkeypatch.setattr(driver, "CONFIRM_SECONDS", 600.0)
    cluster.lives["a"] = [["RUNNING", ("fails", "exit status 3"), *["COMPLETING"] * 99]]
    cluster.lives["b"] = [["RUNNING", "COMPLETING", "COMPLETING", "COMPLETING", "done"]]
    done, notes = work(store, retries=1)
    assert len(done.records) == 3
    assert notes.about("lost") == ["a: exit status 3"]
    assert notes.about("noted") == ["job 1_0 (b) hangs in COMPLETING; its node needs a look"]


def test_time_in_completing_begins_anew_with_a_requeue(cluster, store, monkeypatch):
    monkeypatch.setattr(driver, "COMPLETING_SECONDS", 0.2)
    runs = ["RUNNING", lambda: time.sleep(0.3)]
    cluster.lives["a"] = [["RUNNING", "COMPLETING", "PENDING", *runs, "COMPLETING", "done"]]
    assert work(store, Plan([spec("a")]))[1].about("noted") == []


def test_failure_that_another_job_has_left_is_not_this_one_s(cluster, store):
    cluster.lives["a"] = [["RUNNING", ("fails", "first"), "COMPLETED"], ["RUNNING", "RUNNING", *GOOD]]
    done, notes = work(store, retries=1)
    assert len(done.records) == 3
    assert notes.about("lost") == ["a: first"]


@pytest.mark.parametrize("step", ["TIMEOUT", ("late", "Job not requeued because: timed-out")])
def test_run_out_of_time_is_not_tried_again(cluster, store, step):
    cluster.lives["a"] = [["RUNNING", step]]
    done, _ = work(store, retries=5)
    assert "job 1_1 was out of time; raise resources.slurm.hours. End of its log:" in done.failures["a"]
    assert cluster.submissions == [["b", "a"]]


def test_run_out_of_memory_is_tried_as_a_command_that_fails_and_says_so(cluster, store):
    cluster.lives["a"] = [["RUNNING", "OUT_OF_MEMORY"]] * 2
    done, _ = work(store, retries=1)
    assert "was out of memory; raise resources.slurm.memory_gb" in done.failures["a"]
    assert cluster.submissions == [["b", "a"], ["a"]]


def test_while_slurm_does_not_answer_nothing_is_concluded(cluster, store):
    def silence():
        cluster.silences = 5

    cluster.lives["a"] = [["RUNNING", silence, "RUNNING", "done"]]
    done, notes = work(store)
    assert len(done.records) == 3
    assert cluster.submissions == [["b", "a"], ["c"]]
    assert notes.about("noted") == ["squeue: Unable to contact slurm controller; waiting until Slurm answers"]


def test_refusal_of_the_first_jobs_ends_the_session_and_a_later_one_is_waited_out(cluster, store):
    cluster.refusals = ["sbatch: Invalid partition name specified"]
    with pytest.raises(SlurmError, match="Invalid partition"):
        work(store)

    def refuse():
        cluster.refusals = ["sbatch: QOSMaxSubmitJobPerUserLimit"] * 3

    cluster.lives["a"] = [["RUNNING", refuse, "done"]]
    done, notes = work(store)
    assert len(done.records) == 3
    assert notes.about("noted") == ["sbatch: QOSMaxSubmitJobPerUserLimit; trying again every 0 s"]


@pytest.mark.parametrize("limit", [1, 3])
def test_more_jobs_than_slurm_takes_go_in_smaller_arrays(cluster, store, monkeypatch, limit):
    def submit(jobs, *others):
        if len(jobs) + sum(job.active for job in cluster.queue.values()) > limit:
            raise SlurmError("sbatch: error: QOSMaxSubmitJobPerUserLimit")
        return cluster.submit(jobs, *others)

    monkeypatch.setattr(driver, "submit", submit)
    done, _ = work(store, Plan([spec("a"), *(spec(f"e{i}", "a") for i in range(7))]))
    assert len(done.records) == 8
    assert max(map(len, cluster.submissions)) == limit
    with pytest.raises(SlurmError, match=r"Limit; these were 7 jobs, slurm.max_jobs lets fewer wait at once"):
        work(store, Plan([spec(f"b{i}") for i in range(7)]))


def test_job_that_waits_for_what_may_never_come_is_named(cluster, store):
    cluster.lives["a"] = [["PENDING PartitionTimeLimit", "PENDING PartitionTimeLimit", *GOOD]]
    _, notes = work(store)
    assert notes.about("noted") == ["job 1_1 (a) waits: PartitionTimeLimit"]


def test_result_that_the_disk_shows_late_is_taken(cluster, store, monkeypatch):
    monkeypatch.setattr(driver, "LATE_FILE_SECONDS", 20.0)
    cluster.lives["a"] = [["RUNNING", "COMPLETED", "COMPLETED", "COMPLETED", "done"]]
    done, notes = work(store)
    assert len(done.records) == 3
    assert notes.about("lost") == []


def test_disk_that_is_disturbed_for_a_moment_shows_a_result_the_next_time(cluster, store, monkeypatch):
    whole, disturbed = Store.record, iter([True, True])

    def record(store, key, made_from=None):
        found = whole(store, key, made_from)
        if found is not None and next(disturbed, False):
            raise OSError("Input/output error")
        return found

    monkeypatch.setattr(Store, "record", record)
    done, notes = work(store, Plan([spec("a"), spec("b")]))
    assert len(done.records) == 2
    assert notes.about("lost") == []


def test_job_of_another_name_under_a_ticket_s_id_is_not_its_job(cluster, store):
    """Of another cluster, or of one that was installed anew: it would be waited for, or cancelled."""
    key = run_key(plan()["a"])
    write_ticket(store.out, Ticket(key, "s7", None, "7"))
    cluster.queue["7"] = QueuedJob("7", "RUNNING", "None", "thesis")
    done, _ = work(store)
    assert len(done.records) == 3
    assert cluster.submissions == [["b", "a"], ["c"]]
    assert cluster.cancelled == []


def test_ticket_that_the_disk_does_not_give_out_is_told(store):
    """Taken for none, the run of a job that goes on would begin a second time beside it."""
    write_ticket(store.out, Ticket("k", "s1", None, "7"))
    (path,) = (slurm_folder(store.out) / "tickets").iterdir()
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        jobs_in_queue(store.out, {})


def handed_over(store, job):
    """What submitit leaves once a submission is whole."""
    slurm_folder(store.out).mkdir(exist_ok=True)
    (slurm_folder(store.out) / f"{job}_submitted.pkl").write_bytes(b"")
    assert was_submitted_whole(store.out, job)


def test_jobs_of_a_killed_driver_are_waited_for_also_where_it_had_not_heard_their_ids(cluster, store):
    keys = {name: run_key(plan()[name]) for name in "ab"}
    known, unheard = Ticket(keys["a"], "s7", 1, "7_1"), Ticket(keys["b"], "s8", None)
    for ticket, job in ((known, "7_1"), (unheard, "8")):
        write_ticket(store.out, ticket)
        cluster.begin(ticket, ["RUNNING", "RUNNING", "done"], job)
        handed_over(store, job)
    done, notes = work(store)
    assert len(done.records) == 3
    assert cluster.submissions == [["c"]]
    assert notes.about("queued") == ["b 8", "a 7_1", "c 1_0"]


def test_job_whose_submission_a_kill_cut_short_and_one_that_is_over_are_submitted_anew(cluster, store):
    keys = {name: run_key(plan()[name]) for name in "ab"}
    cut, over = Ticket(keys["a"], "s7", None), Ticket(keys["b"], "s8", None, "8")
    write_ticket(store.out, cut)
    write_ticket(store.out, over)
    cluster.begin(cut, [], "7")
    cluster.begin(over, ["CANCELLED"], "8")
    done, _ = work(store)
    assert len(done.records) == 3
    assert cluster.submissions == [["b", "a"], ["c"]]
    assert cluster.cancelled == ["7"]


def test_runs_on_this_machine_ask_slurm_only_where_it_had_jobs_and_forget_those_that_are_gone(cluster, store):
    cluster.silences = 1
    refuse_beside_jobs(store.out)
    assert cluster.silences == 1
    write_ticket(store.out, Ticket("k", "s1", None, "7"))
    with pytest.raises(
        SlurmError, match=r"had jobs in a Slurm queue, and whether they are gone cannot be told"
    ):
        refuse_beside_jobs(store.out)
    assert read_ticket(store.out, "k") is not None
    refuse_beside_jobs(store.out)
    assert read_ticket(store.out, "k") is None


def test_jobs_of_two_folders_have_other_names(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    here = job_name(Path("."), "s1")
    assert re.fullmatch(r"cotbal-[0-9a-f]{8}-s1", here)
    assert here == job_name(tmp_path / "a", "s1") != job_name(tmp_path, "s1")


def test_job_whose_id_was_not_heard_is_that_of_its_name_and_its_place(tmp_path):
    for place in (0, 1):
        write_ticket(tmp_path, Ticket(f"k{place}", "s1", place))
    names = {"8_1": job_name(tmp_path, "s0"), **dict.fromkeys(("9_0", "9_1"), job_name(tmp_path, "s1"))}
    queue = {job: QueuedJob(job, "RUNNING", "None", name) for job, name in names.items()}
    found = {key: queued.job for key, (_, queued) in jobs_in_queue(tmp_path, queue).items()}
    assert found == {"k0": "9_0", "k1": "9_1"}


def test_stopped_driver_leaves_its_jobs_and_says_how_to_end_them(cluster, store):
    def stop():
        raise KeyboardInterrupt

    cluster.lives["a"] = [["RUNNING", stop]]
    notes = JobNotes()
    with pytest.raises(KeyboardInterrupt):
        driver.work_on_slurm(plan(), store, notes, resources())
    assert notes.about("noted") == ["the jobs in the queue go on; scancel 1 ends them"]
    assert cluster.cancelled == []
    with pytest.raises(SlurmError, match=r"has jobs in the Slurm queue.*scancel 1"):
        refuse_beside_jobs(store.out)
    cluster.silences = 1
    with pytest.raises(SlurmError, match="cannot be told here"):
        refuse_beside_jobs(store.out)
    cluster.queue.clear()
    refuse_beside_jobs(store.out)
    refuse_beside_jobs(store.out)
