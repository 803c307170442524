"""The kernels on a real GPU, against float64: what neither the interpreter nor the compiler can show.

    python -m tests.on_gpu

A line for each check, and exit code 1 if one fails. `--device cpu --tiny` runs the same code in Triton's
interpreter on small shapes.
"""

import argparse
import importlib.util
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from tests.gpu_inputs import PLAIN, Check, every_option, inputs, normal
from tests.on_gpu_rows import beyond_31_bits, left_out, not_finite, views

ROWS = 48
# One block, rows that start inside a word, two passes.
VOCABULARIES = (1000, 4096, 32000, 32003, 65536, 128256, 152064, 262144)
TINY = (40,)


def accuracy(device: str, vocabularies: tuple[int, ...], rows: int) -> Iterator[Check]:
    """Loss and gradients are no further from float64 than plain torch's, at both levels."""
    import cotbal

    def inplace(logits: Tensor, *arguments: Any, **options: Any) -> Tensor:
        loss = cotbal.gtw_cross_entropy(logits * 1, *arguments, inplace=True, **options)
        assert isinstance(loss, Tensor)
        return loss

    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    for n_cols, dtype, has_options in product(vocabularies, dtypes, (False, True)):
        options = every_option(device, n_cols, rows) if has_options else PLAIN
        logits = normal(rows, n_cols, device=device, dtype=dtype)
        hidden, weight = (normal(count, 64, device=device, dtype=dtype) / 4 for count in (rows, n_cols))
        what = f"V = {n_cols}, {str(dtype).removeprefix('torch.')}, {'all' if has_options else 'no'} options"
        check = partial(
            cotbal.check_gradients, impl="triton", upstream=0.25, **inputs(device, rows=rows, n_cols=n_cols)
        )
        yield f"logits, {what}", partial(check, cotbal.gtw_cross_entropy, logits, **options)
        yield f"in place, {what}", partial(check, inplace, logits, **options)
        if n_cols <= 32003:
            linear = partial(check, cotbal.linear_gtw_cross_entropy, hidden, weight, **options)
            yield f"linear, {what}", partial(linear, valid_count=rows)
            yield f"linear in chunks, {what}", partial(linear, memory_budget="min")


def statistics(device: str, vocabularies: tuple[int, ...], rows: int) -> Iterator[Check]:
    """Sums per task, and which labels lead: many logits are equal, and half of the labels are the largest."""
    for n_cols, dtype in product(vocabularies, (torch.bfloat16, torch.float32)):
        given = inputs(device, rows=rows, n_cols=n_cols)
        logits = normal(rows, n_cols, device=device, dtype=dtype).mul(2).round()
        leads = (given["labels"] >= 0) & (torch.arange(rows, device=device) % 2 == 1)
        given["labels"] = torch.where(leads, logits.argmax(1), given["labels"])
        yield f"statistics, V = {n_cols}, {dtype}", partial(same_statistics, logits, given)


def same_statistics(logits: Tensor, given: dict[str, Tensor]) -> None:
    import cotbal

    got, want = (
        cotbal.gtw_cross_entropy(logits, **given, return_stats=True, impl=impl)[1]
        for impl in ("triton", "reference")
    )
    assert want.correct_count.any()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def pieces(device: str, vocabularies: tuple[int, ...], rows: int) -> Iterator[Check]:
    """The kernels of a vocabulary that is spread over ranks, two pieces of unequal size in one process."""
    for n_cols, dtype, has_options in product(vocabularies, (torch.bfloat16, torch.float32), (False, True)):
        what = f"V = {n_cols}, {dtype}, {'all' if has_options else 'no'} options"
        yield f"pieces, {what}", partial(same_in_pieces, device, n_cols, rows, dtype, has_options)


def same_in_pieces(device: str, n_cols: int, rows: int, dtype: torch.dtype, has_options: bool) -> None:
    from csrc_triton import reference
    from csrc_triton.options import LossOptions

    given = every_option(device, n_cols, rows) if has_options else {}
    weights = given.pop("token_weights", torch.ones(rows, device=device))
    labels, options = inputs(device, rows=rows, n_cols=n_cols)["labels"], LossOptions(**given)
    weights, read = weights * (labels >= 0), labels >= 0
    logits = normal(rows, n_cols, device=device, dtype=dtype)
    exact = logits.double().requires_grad_()
    want = reference.row_losses(exact, labels, read, options)
    (weights * want).sum().backward()
    losses, correct, gradient = in_pieces(logits, labels, weights, options)
    torch.testing.assert_close(losses.double(), want.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(correct, reference.top1_correct(logits, labels, read))
    error, largest = (gradient.double() - exact.grad).abs().max(), exact.grad.abs().max()
    # One unit for the rounding, one for an exponential.
    assert error <= max(2 * torch.finfo(dtype).eps, 1e-5) * largest, f"the gradient is off by {error:.1e}"


def in_pieces(logits: Tensor, labels: Tensor, weights: Tensor, options: Any) -> tuple[Tensor, ...]:
    """Losses, top-1 correctness and gradient by the kernels of two pieces."""
    from csrc_triton import vocab_parallel, vocab_pieces

    n_cols, cut = logits.shape[1], logits.shape[1] // 3
    wanted = {"want_correct": True, "ignore_index": -100}
    both = [
        (logits[:, start:end].clone(), vocab_pieces.Piece(start, end - start, n_cols))
        for start, end in ((0, cut), (cut, n_cols))
    ]
    own = [vocab_pieces.label_logits(part, labels, piece, torch.float32) for part, piece in both]
    told = [
        vocab_parallel.piece_statistics(part, labels, own[0] + own[1], weights, piece, options, **wanted)
        for part, piece in both
    ]
    whole = vocab_pieces.combine(
        torch.stack([torch.cat([told[place], own[place][None]]) for place in (0, 1)])
    )
    for part, piece in both:
        losses, correct = vocab_parallel.piece_losses(
            part, labels, whole, weights, None, piece, options, gradient=part, **wanted
        )
    return losses, correct, torch.cat([part for part, _ in both], 1)


def both_levels(device: str, rows: int = 512, n_cols: int = 1003) -> Iterator[tuple[str, Callable[[], Any]]]:
    """A step of each level, forward and backward, that knows what it needs."""
    import cotbal

    given = inputs(device, rows=rows, n_cols=n_cols) | {"denominator": torch.tensor(100.0, device=device)}
    logits = normal(rows, n_cols, device=device, dtype=torch.bfloat16).requires_grad_()
    hidden, weight = (
        normal(count, 64, device=device, dtype=torch.bfloat16).requires_grad_() for count in (rows, n_cols)
    )
    upstream = torch.tensor(0.25, device=device)

    def on_logits() -> tuple[Tensor, ...]:
        loss = cotbal.gtw_cross_entropy(logits, **given, impl="triton")
        return loss, *torch.autograd.grad(loss, [logits], upstream)

    def on_hidden() -> tuple[Tensor, ...]:
        loss = cotbal.linear_gtw_cross_entropy(hidden, weight, **given, valid_count=rows, impl="triton")
        return loss, *torch.autograd.grad(loss, [hidden, weight], upstream)

    yield "logits", on_logits
    yield "linear", on_hidden


def weightings(device: str) -> Iterator[Check]:
    """Steps of every weighting that asks for no number in Python; none where torchjd is not installed."""
    if importlib.util.find_spec("torchjd") is None:
        print("skip  weightings: torchjd is not installed", flush=True)
        return
    from tests.balancing.rules import all_rules
    from tests.balancing.test_base import WAITS

    for name, make in sorted(all_rules(4).items()):
        if name not in WAITS:
            yield f"weighting {name}, nothing waits", partial(weighting_waits_for_nothing, make, device)


def weighting_waits_for_nothing(make: Callable[[], Any], device: str) -> None:
    from tests.balancing.test_base import use

    rule = make()
    use(rule, device)
    counts, sums = torch.ones(4, device=device), torch.ones(4, device=device)

    def steps() -> None:
        for _ in range(5):
            rule.weights(counts)
            rule.update(sums, counts)

    waits_for_nothing(steps)


def same_bits(step: Callable[[], tuple[Tensor, ...]]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(step(), step(), strict=True))


def waits_for_nothing(step: Callable[[], Any]) -> None:
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def in_a_cuda_graph(step: Callable[[], tuple[Tensor, ...]]) -> None:
    """Captured and replayed, it gives what it gives outside."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        want = step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


def levels(device: str, *, tiny: bool) -> Iterator[Check]:
    """Steps of both levels: what they give, on every GPU, and that the host waits for none."""
    for level, step in both_levels(device, 32 if tiny else 512):
        yield f"{level}, the same bits twice", partial(same_bits, step)
    if device == "cuda":
        for level, step in both_levels(device):
            yield f"{level}, nothing waits", partial(waits_for_nothing, step)
            yield f"{level}, in a CUDA graph", partial(in_a_cuda_graph, step)
        if torch.cuda.device_count() > 1:
            for level, step in both_levels("cuda:1"):
                yield f"{level}, on the second GPU", partial(same_bits, step)


def groups(device: str, *, tiny: bool) -> Iterator[tuple[str, Iterator[Check]]]:
    for group in (accuracy, statistics, pieces, left_out, not_finite, views):
        yield group.__name__, group(device, TINY, 12) if tiny else group(device, VOCABULARIES, ROWS)
    yield "beyond_31_bits", beyond_31_bits(device, tiny=tiny)
    yield "levels", levels(device, tiny=tiny)
    if device == "cuda":
        yield "weightings", weightings(device)


def passes(name: str, check: Callable[[], None]) -> bool:
    """Makes a check and prints its line."""
    try:
        check()
    # Whatever goes wrong is a line, and the other checks are still made.
    except Exception as error:
        print(f"FAIL  {name}: {type(error).__name__}: {error}", flush=True)
        return False
    print(f"pass  {name}", flush=True)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small shapes")
    parser.add_argument("--only", default="", help="checks whose name has this")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a GPU that torch can use, found none; --device cpu --tiny tries the code")
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    failed = 0
    for group, made in groups(options.device, tiny=options.tiny):
        try:
            for name, check in made:
                failed += options.only in name and not passes(name, check)
        # Of what the next check needs: whichever are asked for may be among those that are missing.
        except Exception as error:
            failed += 1
            print(f"FAIL  {group}, its other checks: {type(error).__name__}: {error}", flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
