"""A worker's runs, in a process of their own: what a run prints goes to its log from then on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from cotbal.runs import worker
from cotbal.runs.store import Store


def empty_as_nfs(folder, ignore_errors=False):
    """NFS gives a removed file that is open on this machine another name until it is closed."""
    handles = [f"/proc/self/fd/{handle}" for handle in os.listdir("/proc/self/fd")]
    held = {os.readlink(handle) for handle in handles if os.path.exists(handle)}
    for path in list(Path(folder).rglob("*")):
        if str(path) in held:
            path.rename(path.with_name(".nfs0001"))
            return
    shutil_rmtree(folder, ignore_errors=ignore_errors)


def fail_once(settings, folder, report):
    print("a try")
    if not Path(settings["tried"]).exists():
        Path(settings["tried"]).touch()
        raise OSError("the reason")
    # The clock is set back while it runs.
    worker.time.time = lambda: 0.0
    return {"value": 1}


def main(out):
    worker.shutil.rmtree = empty_as_nfs
    job = {"out": out, "versions": {}, "key": "k", "name": "n", "context": {}, "needs": {}}
    job |= {"function": "tests.runs.test_worker:fail_once", "settings": {"tried": f"{out}/tried"}}
    told = []
    for _ in range(2):
        try:
            worker.run_job(job, lambda message: None)
        except OSError as error:
            told.append(str(error))
    Path(out, "told").write_text(json.dumps(told))


shutil_rmtree = shutil.rmtree


def test_worker_tries_a_run_again_whose_log_it_holds_open_on_nfs(tmp_path):
    """And its seconds are those that it took, whatever the clock of the day says."""
    out = tmp_path.resolve()
    subprocess.run([sys.executable, "-m", "tests.runs.test_worker", str(out)], check=True, timeout=60)
    assert json.loads((out / "told").read_text()) == ["the reason"]
    record = Store(out, {}).record("k")
    assert record.result == {"value": 1}
    assert record.started <= record.finished < record.started + 60
    assert sorted(path.name for path in (out / "runs" / "k").iterdir()) == ["log.txt", "result.json"]


if __name__ == "__main__":
    main(sys.argv[1])
