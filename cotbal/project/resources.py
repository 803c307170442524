"""What the runs of an estimate may use, as the YAML file says: this machine, or jobs of a Slurm cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cotbal.project.strict import Positive, Strict, Text

# Options of sbatch that are not free, with the reason.
SLURM_KEYS = {
    **{name: f"there is the key slurm.{name}" for name in ("partition", "account")},
    **{name: f"there is the key slurm.{key}" for name, key in (("time", "hours"), ("mem", "memory_gb"))},
    **dict.fromkeys(
        ("cluster", "clusters"),
        "set SLURM_CLUSTERS in the environment, so that squeue and scancel know it too",
    ),
    "cpus-per-task": "there is the key slurm.cpus",
    "gpus-per-node": "there is the key gpus_per_run",
    **dict.fromkeys(
        ("array", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output"),
        "cotbal sets it itself",
    ),
    **dict.fromkeys(
        ("no-requeue", "requeue", "signal"), "cotbal needs its own, for jobs that are pre-empted"
    ),
}


class Slurm(Strict):
    """What each run asks of Slurm, as a job.

    Attributes:
        hours: the time limit of a job.
        partition: where it runs; None for the cluster's default, as below.
        account: who pays for it.
        cpus: its processors.
        memory_gb: its memory in GiB.
        max_jobs: jobs in the queue at once, waiting and running ones.
        extensions: how often a run that resumes (train.resume, evaluate.resume) goes on in a new job when its
            time is over.
        options: more options of sbatch by their long names.
    """

    hours: Positive
    partition: Text | None = None
    account: Text | None = None
    cpus: Annotated[int, Field(ge=1)] | None = None
    memory_gb: Positive | None = None
    max_jobs: Annotated[int, Field(ge=1)] = 64
    extensions: Annotated[int, Field(ge=0)] = 10
    options: Annotated[dict[Text, bool | int | Text], Field(default_factory=dict)]

    @field_validator("options")
    @classmethod
    def _options_are_free(cls, options: dict[str, bool | int | str]) -> dict[str, bool | int | str]:
        for name in options:
            if (long := name.replace("_", "-")) in SLURM_KEYS:
                raise ValueError(f"{name}: {SLURM_KEYS[long]}")
        return options


class Resources(Strict):
    """What the runs may use.

    Attributes:
        executor: where they run, on this machine or as jobs of a Slurm cluster.
        gpus: how many GPUs of this machine, or their numbers; 0 for none.
        gpus_per_run: GPUs of each command.
        slots: commands at once on this machine where it has no GPUs.
        retries: how often a command that failed starts again.
        slurm: what the jobs ask for.
    """

    executor: Literal["local", "slurm"] = "local"
    gpus: Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]] = 0
    gpus_per_run: Annotated[int, Field(ge=0)] = 1
    slots: Annotated[int, Field(ge=1)] = 1
    retries: Annotated[int, Field(ge=0)] = 1
    slurm: Slurm | None = None

    @model_validator(mode="after")
    def _groups_fit(self) -> Resources:
        if self.executor == "slurm":
            if self.slurm is None:
                raise ValueError("executor: slurm needs slurm: {hours: the time limit of a job}")
            if self.gpus:
                raise ValueError("gpus are those of this machine; a job of Slurm has gpus_per_run")
        elif self.gpus and not 1 <= self.gpus_per_run <= len(self._numbers(None)):
            raise ValueError(
                f"gpus_per_run: expected at most the {len(self._numbers(None))} gpus of the file, at least 1"
            )
        return self

    @property
    def gpus_of_a_command(self) -> int:
        """How many GPUs each command has."""
        return self.gpus_per_run if self.gpus or self.executor == "slurm" else 0

    def environments(self, visible: str | None) -> list[dict[str, str]]:
        """What each command has in its environment: a group of GPUs, or nothing.

        Args:
            visible: CUDA_VISIBLE_DEVICES as it is for this process; a number of GPUs is taken from it.
        """
        if not self.gpus:
            return [{} for _ in range(self.slots)]
        numbers, size = self._numbers(visible), self.gpus_per_run
        groups = [numbers[start : start + size] for start in range(0, len(numbers) - size + 1, size)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]

    def _numbers(self, visible: str | None) -> list[str]:
        if isinstance(self.gpus, list):
            return [str(number) for number in self.gpus]
        if not visible:
            return [str(number) for number in range(self.gpus)]
        numbers = [number for number in visible.split(",") if number]
        if len(numbers) < self.gpus:
            raise ValueError(
                f"resources.gpus: expected at most {len(numbers)} as in CUDA_VISIBLE_DEVICES, got {self.gpus}"
            )
        return numbers[: self.gpus]
