"""A Slurm of one node on this machine for as long as a test needs it; it writes into its folder alone."""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.ports import free_port

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
PACKAGES = ("slurm-wlm", "munge")
START_SECONDS = 30.0
# No accounting, as on many small clusters. A requeued job waits until its old credentials have expired.
CONF = """\
ClusterName=cotbal
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ctld}
SlurmdPort={slurmd}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=60 State=UP
"""


def missing() -> list[str]:
    """What of Slurm this machine lacks."""
    return [name for name in NEEDED if _which(name) is None]


def install() -> None:
    """Debian's Slurm, where it is missing.

    Raises:
        RuntimeError: it cannot be installed.
    """
    if not (names := ", ".join(missing())):
        return
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    for command in (
        ["apt-get", "update"],
        ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES],
    ):
        try:
            done = subprocess.run(
                [*sudo, *environment, *command], capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise RuntimeError(f"Slurm's {names} are missing, and {error}") from error
        if done.returncode:
            raise RuntimeError(f"Slurm's {names} are missing, and {command} ended with\n{done.stderr}")


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))


class Node:
    """A running Slurm whose commands are reached with `environment`."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder, self._started = folder, []
        host = socket.gethostname().partition(".")[0]
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        values = {"host": host, "folder": folder, "user": getpass.getuser(), "cpus": cpus}
        self.conf = folder / "slurm.conf"
        self.conf.write_text(CONF.format(ctld=free_port(), slurmd=free_port(), **values))
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        # From version 23 on; otherwise they want control groups, which a container need not have.
        if int(self.call("sinfo", "--version").split()[-1].partition(".")[0]) >= 23:
            (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")

    def start(self) -> None:
        """Starts the daemons and waits until the node takes jobs."""
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        files = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        options = [f"--{option}={self.folder}/munge.{end}" for option, end in files.items()]
        self._start("munged", "--foreground", "--force", *options)
        self._wait("munged", lambda: (self.folder / "munge.socket").exists())
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D")
        self._wait("the node", lambda: "idle" in self.call("sinfo", "--noheader", "--format=%t", check=False))

    def stop(self) -> None:
        """Ends the daemons, and the jobs with them."""
        self.cancel()
        for process in reversed(self._started):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()

    def cancel(self) -> None:
        """Ends all jobs, so that the next test has the node's processors."""
        self.call("scancel", "--user", getpass.getuser(), check=False)
        self._wait(
            "the jobs' end", lambda: not self.call("squeue", "--noheader", check=False).strip(), strict=False
        )

    def call(self, *command: str, check: bool = True) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert not (check and done.returncode), f"{command}: {done.stderr}"
        return done.stdout

    def _start(self, daemon: str, *arguments: str) -> None:
        path = _which(daemon)
        assert path is not None, daemon
        with (self.folder / f"{daemon}.out").open("wb") as out:
            self._started.append(
                subprocess.Popen(
                    [path, *arguments], env=self.environment, stdout=out, stderr=out, cwd=self.folder
                )
            )

    def _wait(self, what: str, ready, strict: bool = True) -> None:
        end = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > end:
                assert not strict, f"{what} did not come up; the ends of the logs:\n{self._logs()}"
                return
            time.sleep(0.1)

    def _logs(self) -> str:
        logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)
