"""The arrows of the house: each component imports only what is listed here, and only downward."""

from tests.imports import arrows

# Training and estimation are two flows; cotbal.weights is their bridge. A new arrow is decided on here.
OWN = {
    "csrc_triton": set(),
    "cotbal._accumulation": {"csrc_triton", "cotbal._arguments"},
    "cotbal._arguments": {"csrc_triton"},
    "cotbal._calls": {"cotbal._arguments"},
    "cotbal._draws": set(),
    "cotbal._ending": set(),
    "cotbal._float64": set(),
    "cotbal._compute": {"csrc_triton", "cotbal._arguments"},
    "cotbal._implementation": set(),
    "cotbal._inputs": {"csrc_triton", "cotbal._arguments"},
    "cotbal._reference": {"csrc_triton", "cotbal._arguments"},
    "cotbal.ops": {"csrc_triton", "cotbal._arguments", "cotbal._compute"},
    "cotbal.linear_ops": {
        "csrc_triton",
        "cotbal._accumulation",
        "cotbal._arguments",
        "cotbal._compute",
        "cotbal.ops",
    },
    "cotbal.vocab_parallel": {"csrc_triton", "cotbal._arguments", "cotbal._compute", "cotbal.ops"},
    "cotbal.vocab_losses": {
        "cotbal._arguments",
        "cotbal._calls",
        "cotbal._implementation",
        "cotbal._inputs",
        "cotbal.vocab_parallel",
    },
    "cotbal.losses": {
        "cotbal._accumulation",
        "cotbal._arguments",
        "cotbal._calls",
        "cotbal._implementation",
        "cotbal._inputs",
        "cotbal._reference",
        "cotbal.linear_ops",
        "cotbal.ops",
        "cotbal.vocab_losses",
    },
    "cotbal.modules": {"cotbal.losses", "cotbal._inputs"},
    "cotbal.gradcheck": {"cotbal._float64", "csrc_triton", "cotbal.losses"},
    "cotbal.balancing": {
        "cotbal._draws",
        "cotbal._float64",
        "cotbal.files",
        "cotbal.tasks",
        "cotbal.weights",
    },
    "cotbal.normalizer": {"cotbal._float64", "csrc_triton", "cotbal._calls"},
    "cotbal.step_loss": {"cotbal._float64", "cotbal._calls", "cotbal.losses"},
    "cotbal.meter": {"cotbal._float64", "cotbal._calls", "cotbal.tasks"},
    "cotbal.step_balance": {
        "cotbal._float64",
        "csrc_triton",
        "cotbal._calls",
        "cotbal.balancing",
        "cotbal.meter",
        "cotbal.normalizer",
        "cotbal.step_loss",
        "cotbal.tasks",
    },
    "cotbal.replacements": set(),
    "cotbal.files": set(),
    "cotbal.json_window": set(),
    "cotbal.json_records": {"cotbal.files", "cotbal.json_window"},
    "cotbal.tasks": set(),
    "cotbal.weights": {"cotbal.files", "cotbal.tasks"},
    "cotbal.metrics": set(),
    "cotbal.runs": {"cotbal.files"},
    "cotbal.estimate": {"cotbal._on_demand", "cotbal.files", "cotbal.runs", "cotbal.tasks", "cotbal.weights"},
    "cotbal.collect": {"cotbal.estimate", "cotbal.files", "cotbal.metrics", "cotbal.tasks"},
    "cotbal.compare": {"cotbal.estimate", "cotbal.files", "cotbal.metrics", "cotbal.tasks"},
    "cotbal.project": {
        "cotbal.balancing",
        "cotbal.compare",
        "cotbal.estimate",
        "cotbal.files",
        "cotbal.json_records",
        "cotbal.json_window",
        "cotbal.runs",
        "cotbal.tasks",
        "cotbal.weights",
    },
    "cotbal.data": {
        "cotbal.collect",
        "cotbal.files",
        "cotbal.json_records",
        "cotbal.json_window",
        "cotbal.project",
        "cotbal.tasks",
    },
    "cotbal.progress": {"cotbal.runs"},
    "cotbal.report": {"cotbal.estimate", "cotbal.files", "cotbal.metrics"},
    "cotbal.integrations": {
        "csrc_triton",
        "cotbal._draws",
        "cotbal._ending",
        "cotbal._on_demand",
        "cotbal.balancing",
        "cotbal.files",
        "cotbal.json_records",
        "cotbal.json_window",
        "cotbal.meter",
        "cotbal.normalizer",
        "cotbal.replacements",
        "cotbal.step_balance",
        "cotbal.step_loss",
        "cotbal.tasks",
        "cotbal.weights",
    },
    "cotbal.patching": {"cotbal.balancing", "cotbal.integrations", "cotbal.tasks"},
    "cotbal.doctor": {
        "cotbal._draws",
        "cotbal._float64",
        "cotbal.files",
        "cotbal.integrations",
        "cotbal.normalizer",
        "cotbal.step_loss",
    },
    "cotbal._on_demand": set(),
    "cotbal": {"cotbal._on_demand", "cotbal._public"},
    "cotbal._public": {
        "cotbal.estimate",
        "cotbal.gradcheck",
        "cotbal.losses",
        "cotbal.metrics",
        "cotbal.modules",
        "cotbal.patching",
        "cotbal.weights",
    },
    "cotbal.demo": {
        "cotbal",
        "cotbal._draws",
        "cotbal._ending",
        "cotbal.balancing",
        "cotbal.estimate",
        "cotbal.files",
        "cotbal.metrics",
        "cotbal.normalizer",
        "cotbal.report",
        "cotbal.runs",
        "cotbal.weights",
    },
    "cotbal.cli": {
        "cotbal.__version__",
        "cotbal.collect",
        "cotbal.compare",
        "cotbal.data",
        "cotbal.demo",
        "cotbal.doctor",
        "cotbal.estimate",
        "cotbal.files",
        "cotbal.progress",
        "cotbal.project",
        "cotbal.report",
        "cotbal.runs",
        "cotbal.weights",
    },
}
TRAINING = {
    "csrc_triton",
    "cotbal._accumulation",
    "cotbal._arguments",
    "cotbal._calls",
    "cotbal._compute",
    "cotbal._draws",
    "cotbal._float64",
    "cotbal._implementation",
    "cotbal._inputs",
    "cotbal._reference",
    "cotbal.linear_ops",
    "cotbal.ops",
    "cotbal.vocab_parallel",
    "cotbal.vocab_losses",
    "cotbal.losses",
    "cotbal.modules",
    "cotbal.gradcheck",
    "cotbal.normalizer",
    "cotbal.step_loss",
    "cotbal.meter",
    "cotbal.step_balance",
    "cotbal.replacements",
    "cotbal.balancing",
    "cotbal.integrations",
    "cotbal.patching",
    "cotbal.doctor",
}
ESTIMATION = {
    "cotbal.collect",
    "cotbal.compare",
    "cotbal.data",
    "cotbal.estimate",
    "cotbal.metrics",
    "cotbal.report",
    "cotbal.runs",
    "cotbal.demo",
    "cotbal.cli",
    "cotbal.progress",
    "cotbal.project",
}
# What a component may need besides torch. Triton belongs to the kernels; the core needs nothing else.
OTHERS = {
    "csrc_triton": {"triton"},
    # Pillow and tqdm are LLaVA's own: its generation takes pictures and shows how far it is. LLaMA-Factory
    # reads its keys by omegaconf and its data by pyarrow. huggingface_hub is what transformers uploads by.
    "cotbal.integrations": {
        "PIL",
        "accelerate",
        "huggingface_hub",
        "jinja2",
        "numpy",
        "omegaconf",
        "peft",
        "pyarrow",
        "swift",
        "tqdm",
        "transformers",
    },
    "cotbal.doctor": {"deepspeed", "peft", "safetensors", "transformers"},
    "cotbal.collect": {"openpyxl"},
    "cotbal.data": {"PIL", "pyarrow", "tokenizers", "transformers"},
    "cotbal.progress": {"rich"},
    # Apart from cotbal.estimate, which the public names bring: LLaVA-NeXT pins pydantic 1.
    "cotbal.project": {"pydantic", "submitit", "yaml"},
    "cotbal.report": {"PIL", "jinja2", "matplotlib", "numpy", "rich"},
    "cotbal.demo": {"PIL", "numpy", "safetensors", "sklearn", "transformers"},
    "cotbal.cli": {"rich", "typer"},
}


def test_every_arrow_is_a_known_one() -> None:
    own, others = arrows()
    assert set(own) == set(OWN), "a component came or went: give it its place in OWN"
    for source, targets in own.items():
        assert targets <= OWN[source], f"{source} imports {sorted(targets - OWN[source])}"
        extra = others[source] - {"torch"} - OTHERS.get(source, set())
        assert not extra, f"{source} imports {sorted(extra)}"


def test_the_arrows_run_one_way() -> None:
    """No cycle among the components, and none from the training side to the estimation side."""
    remaining = {source: targets & OWN.keys() for source, targets in OWN.items()}
    while remaining:
        lowest = {source for source, targets in remaining.items() if not targets & remaining.keys()}
        assert lowest, f"a cycle among {sorted(remaining)}"
        remaining = {source: targets for source, targets in remaining.items() if source not in lowest}
    for source in TRAINING:
        assert not OWN[source] & ESTIMATION
