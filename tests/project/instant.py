"""Commands that take no time: a plan worked on in the process itself."""

import shutil
import time

from cotbal.runs.execution import Execution
from cotbal.runs.store import Record


def instantly(score, fails=(), plans=None, clusters=(0, 1)):
    """As `cotbal.project.work.work`, with every command done at once.

    Args:
        score: of an evaluation, by its name and task.
        fails: names of runs that are given up.
        plans: takes the names of the runs that were still to be done.
        clusters: of the two items of every evaluation.
    """

    def work(project, plan, store, listener):
        execution = Execution(plan, store)
        execution.take_up()
        if plans is not None:
            plans.append([name for name in plan if name not in execution.records])
        while job := execution.next_job(()):
            if job.name in fails:
                execution.give_up(job, "no luck")
                continue
            result = {"output": f"outputs/{job.key}", "samples": 1, "steps": None}
            if " on " in job.name:
                value = score(job.name, job.spec.settings["task"])
                result = {"score": value, "items": [value - 0.01, value + 0.01], "clusters": list(clusters)}
            now = time.time()
            record = Record(job.key, result, now - 1.0, now, 0.0, job.made_from)
            shutil.rmtree(store.folder(job.key), ignore_errors=True)
            store.folder(job.key).mkdir(parents=True)
            store.write(record, function="f", settings={}, name=job.name)
            execution.take_up()
        return execution

    return work
