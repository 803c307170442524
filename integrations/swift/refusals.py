"""Settings of ms-swift under which the numbers trained on would not be those of Eq. 2: an error each."""

from importlib import import_module
from typing import Any

# Argument: the one value that is exact, and what to do.
_EXPECTED = {
    "task_type": ("causal_lm", "other tasks have losses of their own; train them without the plugin"),
    "loss_type": (None, "it replaces the loss and never sees the tasks; leave it out"),
    "label_smoothing_factor": (0, "the Trainer's smoothing bypasses the task weights; leave it out"),
    "enable_dft_loss": (False, "it is another loss than cross-entropy; leave it out"),
    "enable_channel_loss": (
        False,
        "it takes the loss from the logits, without the task weights; leave it out: the channels' losses are "
        "logged as task_loss/<name>",
    ),
    "sequence_parallel_size": (1, "it computes its loss itself, in shards; leave it out"),
    "use_ray": (False, "its workers do not import the plugin; use NPROC_PER_NODE or torchrun"),
    "use_logits_to_keep": (
        (None, False),
        "it cuts the labels after they were counted; leave it out: the linear level makes no logits of "
        "ignored tokens either",
    ),
}


def check_arguments(args: Any) -> None:
    """Checks the arguments of `swift sft` before a model is loaded; `check_trainer` checks the rest.

    Args:
        args: ms-swift's `SftArguments`, or another stage's.

    Raises:
        ValueError: a stage or a setting that the exact loss of the step cannot be right under.
    """
    if hasattr(args, "rlhf_type"):
        raise ValueError(
            f"rlhf_type: expected swift sft, got {args.rlhf_type!r}, whose loss is another than that of "
            "labels; take the plugin out of --external_plugins"
        )
    for name, (expected, remedy) in _EXPECTED.items():
        came, fits = getattr(args, name, None), expected if isinstance(expected, tuple) else (expected,)
        if hasattr(args, name) and came not in fits:
            raise ValueError(f"{name}: expected {fits[-1]!r}, got {came!r}: {remedy}")
    if getattr(args, "use_liger_kernel", False):
        kernels = getattr(args, "liger_kernel_config", None) or {}
        if not isinstance(kernels, dict) or kernels.get("fused_linear_cross_entropy", True):
            raise ValueError(
                "use_liger_kernel: expected Liger's kernels without its loss, which never sees the tasks; "
                "add --liger_kernel_config '{\"fused_linear_cross_entropy\": false}'"
            )
    binary = getattr(args, "is_binary_loss_scale", None)
    if binary is None:
        binary = import_module("swift.loss_scale").get_loss_scale(args.loss_scale).is_binary_loss_scale
    if not binary:
        raise ValueError(
            f"loss_scale: expected one of 0 and 1 alone (default, last_round, all), got {args.loss_scale!r}, "
            "a weight per token that the denominator would not count; choose another, or "
            "--is_binary_loss_scale true, which trains on each token whose scale is not 0"
        )
