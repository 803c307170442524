"""Blocks, warps, stages and registers of the logits kernel, timed against a copy: how the table is chosen.

    python -m benchmarks.launches        every candidate; most of the time goes into compiling them
    python -m benchmarks.launches --only 32000 32003 --form gradient     some of them
    TRITON_INTERPRET=1 python -m benchmarks.launches --device cpu --tiny     the same code on small rows

bfloat16, every row valid; under "linear" the logits are in float32, as the linear level's product sums them.
A line holds the share of a copy's bandwidth, counting a logit read once and its gradient written once (for
the loss alone: read once), and the largest error of loss and gradient against float64. The launch of the
table stands first, then another kernel (`benchmarks.packed_rows`). A candidate that wins still has to
compile without spills: `python -m benchmarks.machine_code`, for pipelines and that kernel
`pytest tests/csrc_triton/test_compile.py -k "pipelines or packed"`.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from benchmarks import packed_rows
from benchmarks.meters import Meter, ceilings, device_name, make_meter
from csrc_triton import gtw_cross_entropy
from csrc_triton.launch import WORD, Launch, row_launch, takes_long_steps
from csrc_triton.options import LossOptions

VOCABULARIES = (8192, 32000, 32003, 50257, 128256, 152064, 262144)
TINY = (1504, 1500)
ROWS, CHECKED_ROWS, SOFTCAP = 8192, 4, 30.0
# Of logits alive at once at the linear level, V = 128256 under the budget of a GPU.
LINEAR_ROWS = 2048
FORMS = ("gradient", "linear", "loss alone", "softcap")
# Largest error of a loss of about 12 and, of the largest gradient, in bfloat16's unit in the last place.
MOST_LOSS_ERROR, MOST_GRADIENT_ERROR = 1e-4, 2**-7


@dataclass(frozen=True)
class Shape:
    """Rows to time: how many, their vocabulary, and which of `FORMS`."""

    rows: int
    vocabulary: int
    form: str

    @property
    def options(self) -> LossOptions:
        return LossOptions(softcap=SOFTCAP if self.form == "softcap" else None)

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits; the gradient is bfloat16."""
        return torch.float32 if self.form == "linear" else torch.bfloat16

    @property
    def n_bytes(self) -> int:
        written = 0 if self.form == "loss alone" else 2
        return self.rows * self.vocabulary * (self.dtype.itemsize + written)

    @property
    def stride(self) -> int:
        """Of a row: the linear level pads it."""
        return -(-self.vocabulary // 64) * 64 if self.form == "linear" else self.vocabulary

    @property
    def width(self) -> int:
        """Columns of the whole words that hold a row, wherever it starts."""
        return self.vocabulary + (WORD - 1 if self.vocabulary % WORD else 0)

    @property
    def takes_packed(self) -> bool:
        return self.form == "gradient" and self.width <= packed_rows.LAUNCH.block

    def candidates(self, logits: Tensor) -> Iterator[Launch]:
        """The table's own for them, then the others that hold a row or go through it in two passes."""
        table = row_launch(
            self.vocabulary,
            is_aligned=self.vocabulary % WORD == 0,
            is_elementwise=self.form == "softcap",
            has_gradient=self.form != "loss alone",
            takes_long_steps=takes_long_steps(logits),
        )
        yield table
        if table.has_scales(self.dtype.itemsize, is_plain=True) or table.step >= table.block // 2:
            # The next rows, or steps, read into shared memory while one is computed.
            yield from (replace(table, stages=stages) for stages in (2, 3))
        for block in (512 << power for power in range(7)):
            for warps in (4, 8, 16, 32):
                # 8 to 64 columns of a thread.
                if not 8 <= block // (32 * warps) <= 64 or block >= 2 * self.width:
                    continue
                for step in (0,) if self.width <= block else (block, 2 * block):
                    if step <= 32768 and (launch := Launch(block, warps, step)) != table:
                        yield launch
                if block < self.width and block == 32 * 32 * warps and warps < 32:
                    # Several programs at a time: one waits for its row while another writes.
                    yield Launch(block, warps, block // 2, registers=64)


def main(arguments: list[str] | None = None) -> None:
    """Prints a line for each candidate."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.launches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="small rows, to try the code")
    parser.add_argument(
        "--only", nargs="*", type=int, default=[], metavar="V", help="only these vocabularies"
    )
    parser.add_argument(
        "--form", nargs="*", choices=FORMS, default=FORMS, help="only these forms of the loss"
    )
    options = parser.parse_args(arguments)
    meter = make_meter(options.device)
    copied = ceilings(meter, tiny=options.tiny)["copy_bytes_per_s"]
    print(f"{device_name(meter.device)}, a copy moves {copied / 1e9:.0f} GB/s")
    print(
        f"{'V':>7} {'form':<10} {'block':>6} {'warps':>5} {'step':>6} {'stages':>6} {'registers':>9}"
        f" {'ms':>8} {'of copy':>8}  largest error"
    )
    for vocabulary in options.only or (TINY if options.tiny else VOCABULARIES):
        for form in options.form:
            rows = LINEAR_ROWS if form == "linear" else ROWS
            shape = Shape(CHECKED_ROWS if options.tiny else rows, vocabulary, form)
            measure(shape, meter, copied)


def measure(shape: Shape, meter: Meter, copied: float) -> None:
    """Prints the lines of a shape."""
    generator = torch.Generator(meter.device).manual_seed(0)
    logits = 3 * torch.randn(shape.rows, shape.stride, generator=generator, device=meter.device)
    logits = logits.to(shape.dtype).narrow(1, 0, shape.vocabulary)
    labels = torch.randint(shape.vocabulary, (shape.rows,), generator=generator, device=meter.device)
    weights = 0.5 + torch.rand(shape.rows, generator=generator, device=meter.device)
    gradient = None
    if shape.form != "loss alone":
        padded = torch.empty(shape.rows, shape.stride, dtype=torch.bfloat16, device=meter.device)
        gradient = padded.narrow(1, 0, shape.vocabulary)
    denominator = weights.sum()

    def of_table() -> Tensor:
        losses, _ = gtw_cross_entropy.gtw_cross_entropy_forward(
            logits,
            labels,
            weights,
            denominator,
            shape.options,
            gradient=gradient,
            want_correct=False,
            ignore_index=-100,
        )
        return losses

    def line(launch: Launch, step: Callable[[], Tensor], note: str) -> None:
        if gradient is not None:
            gradient.fill_(math.nan)
        try:
            error = checked(shape, logits, labels, weights, step(), gradient)
            milliseconds = statistics.median(meter.milliseconds(step))
        except (RuntimeError, AssertionError, OutOfResources) as wrong:
            outcome = f"{type(wrong).__name__}: {str(wrong).splitlines()[0][:60]}"
        else:
            share = shape.n_bytes / (milliseconds / 1e3) / copied
            outcome = f"{milliseconds:8.3f} {share:8.3f}  {error}"
        columns = f"{launch.block:>6} {launch.num_warps:>5} {launch.step:>6} {launch.stages:>6}"
        columns += f" {launch.registers or '-':>9}"
        print(f"{shape.vocabulary:>7} {shape.form:<10} {columns} {outcome}{note}", flush=True)

    for place, launch in enumerate(shape.candidates(logits)):
        with patch.object(gtw_cross_entropy, "row_launch", lambda *_, given=launch, **__: given):
            line(launch, of_table, "  the table's" if place == 0 else "")
        if place == 0 and gradient is not None and shape.takes_packed:
            step = partial(packed_rows.packed_forward, logits, labels, weights, denominator, gradient)
            line(packed_rows.LAUNCH, step, "  packed")


def checked(
    shape: Shape, logits: Tensor, labels: Tensor, weights: Tensor, losses: Tensor, gradient: Tensor | None
) -> str:
    """The largest errors of the first rows, in words.

    Raises:
        AssertionError: they are larger than rounding.
    """
    few = slice(CHECKED_ROWS)
    exact = logits[few].double().requires_grad_()
    capped = exact if shape.form != "softcap" else SOFTCAP * torch.tanh(exact / SOFTCAP)
    c = torch.nn.functional.cross_entropy(capped, labels[few], reduction="none")
    (wanted,) = torch.autograd.grad((weights[few] * c).sum() / weights.sum().double(), exact)
    of_loss = float((losses[few].double() - c.detach()).abs().max())
    assert of_loss <= MOST_LOSS_ERROR, f"the loss is off by {of_loss:.1e}"
    if gradient is None:
        return f"{of_loss:.0e}"
    assert bool(gradient.isfinite().all()), "the gradient is not finite, or not written"
    of_gradient = float((gradient[few].double() - wanted).abs().max() / wanted.abs().max())
    assert of_gradient <= MOST_GRADIENT_ERROR, f"the gradient is off by {of_gradient:.1e} of its largest"
    return f"{of_loss:.0e}, {of_gradient:.0e} of the largest"


if __name__ == "__main__":
    main()
