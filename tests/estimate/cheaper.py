"""What cheaper estimates come to on the digit world: `python -m tests.estimate.cheaper OUT [--seeds 0 1 2]`.

Every seed has worlds, a base model and an order of its own. Its runs are the mini run, the probes on 1/4, 1/2
and all of each task, the mini run and the probes on 1/4 and all with LoRA adapters, and the equally weighted
model; each way's estimate follows from them and is compared with the full one of its seed. Started again, it
goes on from the finished runs.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cotbal.demo.pipeline import DemoRecipe
from cotbal.demo.run import headline
from cotbal.estimate.algorithm1 import Algorithm1
from cotbal.estimate.scores import Scores
from cotbal.progress import PlainProgress
from cotbal.runs.plan import Plan, Results
from cotbal.runs.pool import run_plan
from cotbal.runs.store import RunSpec, Store, locked
from tests.estimate import double_world, lora_world
from tests.estimate.ways import Tables, costs, markdown

# Above twice the mini ratio, 1/8, as the rungs of the adaptive mode.
SHARES = ("1/4", "1/2")
LORA_SHARES = ("1/4", "full")


def plan_of(recipe: DemoRecipe) -> Plan:
    """The runs of a seed."""
    base = recipe.base()
    probes = [recipe.probe(task, share) for share in SHARES for task in recipe.tasks]
    estimation = Algorithm1(recipe).estimation_runs()
    specs = [*([] if base is None else [base]), recipe.equal(), *estimation, *probes]
    if recipe.profile == double_world.NAME:
        specs = [dataclasses.replace(spec, function=double_world.FUNCTION) for spec in specs]
    return Plan([*specs, *_with_lora(recipe)])


def _with_lora(recipe: DemoRecipe) -> list[RunSpec]:
    probes = [recipe.probe(task, share) for share in LORA_SHARES for task in recipe.tasks]
    return [with_lora(spec) for spec in (recipe.mini(), *probes)]


def with_lora(spec: RunSpec) -> RunSpec:
    """The run with adapters."""
    return dataclasses.replace(spec, name=f"{spec.name} (LoRA)", function=lora_world.FUNCTION)


def _as_it_is(spec: RunSpec) -> RunSpec:
    return spec


def tables_of(recipe: DemoRecipe, results: Results) -> Tables:
    """The score tables of a seed, by the share of the probes, and the scores of the equal-weight model."""
    full = Algorithm1(recipe).scores(results)
    shares = {share: _table(recipe, share, results) for share in SHARES}
    equal = recipe.validation_scores(recipe.equal(), results)
    lora = {str(share): _table(recipe, share, results, with_lora) for share in LORA_SHARES}
    lora["1"] = lora.pop("full")
    return Tables({**shares, "1": full}, [equal[task] for task in recipe.tasks], lora)


def _table(
    recipe: DemoRecipe, share: str, results: Results, change: Callable[[RunSpec], RunSpec] = _as_it_is
) -> Scores:
    named = {"mini": recipe.mini(), **{task: recipe.probe(task, share) for task in recipe.tasks}}
    runs = {name: change(run) for name, run in named.items()}
    rows = {name: _row(recipe.validation_scores(run, results), recipe) for name, run in runs.items()}
    items = {name: recipe.validation_items(run, results) for name, run in runs.items()}
    return Scores(recipe.tasks, rows.pop("mini"), list(rows.values()), items=items)


def _row(scores: Mapping[str, float], recipe: DemoRecipe) -> list[float]:
    return [scores[task] for task in recipe.tasks]


def sizes_of(recipe: DemoRecipe) -> dict[str, float]:
    """The samples of each part of an estimate, in those of the weighted tasks."""
    profile, tasks = recipe._sizes, recipe.tasks
    whole = sum(profile.conversations[task] for task in tasks)

    def size(run: RunSpec) -> float:
        return profile.run_size(run.settings["data"]) / whole

    probes = {share: sum(size(recipe.probe(task, share)) for task in tasks) for share in SHARES}
    full = sum(size(recipe.probe(task)) for task in tasks)
    return {"mini": size(recipe.mini()), **probes, "1": full}


def main() -> None:
    """Runs what is missing, seed by seed, and prints the table after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", default="quick", help="or double: twice the data, mini ratio 1/16")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    tables: list[Tables] = []
    with locked(options.out):
        for seed in options.seeds:
            recipe = DemoRecipe(options.profile, seed)
            progress = PlainProgress(sys.stderr, headline)
            records = run_plan(plan_of(recipe), Store(options.out), progress, options.workers)
            tables.append(tables_of(recipe, {name: record.result for name, record in records.items()}))
            print(f"\nSeeds {options.seeds[: len(tables)]}, profile {options.profile}\n")
            print(markdown(tables, costs(sizes_of(recipe))), flush=True)


if __name__ == "__main__":
    main()
