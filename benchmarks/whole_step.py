"""A training step of a small LLaVA with each loss: forward, loss, backward, optimizer.

    python -m benchmarks.whole_step [--device cuda] [--json]

It shows what a loss is worth in a step, and that the losses work in one. The model is transformers' own, with
random weights; it needs nothing from a hub.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.inputs import IGNORE, TASKS, Case, LossInputs
from benchmarks.meters import make_meter
from benchmarks.provider import Provider
from benchmarks.providers import find_providers

# Losses of one model in one dtype agree to a few units in its last place; by bytes of the dtype.
_TOLERANCES = {2: 8.0, 4: 32.0}
LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Size:
    """A LLaVA and its batch.

    Attributes:
        hidden: width of the language model, 64 a head.
        layers: of the language model; the vision tower has two.
        image: side of an image in pixels, patches of 14.
        length: tokens of a sequence, image tokens included.
        batch: sequences.
        vocabulary: of the head.
        dtype: of weights and activations.
    """

    hidden: int
    layers: int
    image: int
    length: int
    batch: int
    vocabulary: int
    dtype: str

    @property
    def image_tokens(self) -> int:
        return (self.image // 14) ** 2


# LLaVA-1.5's vocabulary and image, a model small enough for the loss to show; a fraction of it for a CPU.
SIZES = {
    "cuda": Size(2048, 4, 336, 1024, 8, 32064, "bfloat16"),
    "cpu": Size(256, 2, 56, 128, 4, 32064, "float32"),
    "tiny": Size(64, 1, 28, 24, 2, 320, "float32"),
}


@dataclass(frozen=True)
class Batch:
    """Tokens with one image each, and the labels of the next token: 20 % of the positions are answers."""

    input_ids: Tensor
    pixel_values: Tensor
    labels: Tensor
    task_ids: Tensor
    task_weights: Tensor


def make_model(size: Size, device: torch.device) -> Any:
    """A LlavaForConditionalGeneration with random weights, seeded."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=size.image,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            hidden_size=size.hidden,
            intermediate_size=2 * size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.hidden // 64,
            num_key_value_heads=size.hidden // 64,
            vocab_size=size.vocabulary,
            max_position_embeddings=size.length,
        ),
        image_token_index=size.vocabulary - 1,
        image_seq_length=size.image_tokens,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    return model.to(device=device, dtype=getattr(torch, size.dtype)).train()


def make_batch(size: Size, device: torch.device) -> Batch:
    """One seeded batch; the answer is the last fifth of each sequence."""
    generator = torch.Generator().manual_seed(0)
    shape = (size.batch, size.length)
    input_ids = torch.randint(size.vocabulary - 1, shape, generator=generator)
    labels = torch.full(shape, IGNORE)
    answer = -max(1, size.length // 5)
    labels[:, answer - 1 : -1] = input_ids[:, answer:]
    input_ids[:, : size.image_tokens] = size.vocabulary - 1
    pixels = torch.randn(size.batch, 3, size.image, size.image, generator=generator)
    tasks = torch.arange(size.batch)[:, None].expand(shape) % TASKS
    weights = 0.25 + torch.rand(TASKS, generator=generator)
    return Batch(
        input_ids.to(device),
        pixels.to(device, getattr(torch, size.dtype)),
        labels.to(device),
        tasks.to(device),
        weights.to(device),
    )


def loss_of(provider: Provider, model: Any, batch: Batch) -> Tensor:
    """The loss of `provider` on the model's hidden states, or on its logits."""
    hidden = model.model(input_ids=batch.input_ids, pixel_values=batch.pixel_values).last_hidden_state
    hidden = hidden.reshape(-1, hidden.shape[-1])
    head = model.lm_head.weight
    features = (hidden, head) if provider.level == "linear" else (model.lm_head(hidden),)
    labels, task_ids = batch.labels.reshape(-1), batch.task_ids.reshape(-1)
    weights = batch.task_weights[task_ids] * (labels != IGNORE)
    denominator = weights.sum()
    return provider.run(
        LossInputs(
            case=Case(provider.level, len(labels), len(head), hidden.shape[-1]),
            features=features,
            labels=labels,
            task_ids=task_ids,
            task_weights=batch.task_weights,
            row_scale=weights / denominator,
            denominator=denominator,
            # A collator counts on the CPU, before the batch is sent.
            valid_count=batch.labels.shape[0] * max(1, batch.labels.shape[1] // 5),
            upstream=torch.ones((), device=labels.device),
        )
    )


def _reference(level: str) -> Provider:
    def run(inputs: LossInputs) -> Tensor:
        rows = F.cross_entropy(inputs.features[0].double(), inputs.labels, reduction="none")
        return (rows * inputs.row_scale.double()).sum()

    return Provider("reference", level, run, "float64 cross-entropy of the model's own logits")


def _gradients(provider: Provider, model: Any, batch: Batch) -> list[Tensor]:
    """The loss, and the gradients of the head and of the token embedding, the model's two ends."""
    ends = [model.lm_head.weight, model.get_input_embeddings().weight]
    loss = loss_of(provider, model, batch)
    return [loss.detach(), *torch.autograd.grad(loss, ends)]


def measure(device: str, size: Size) -> dict[str, Any]:
    """Time, added memory and agreement of a step with every weighted loss that is here."""
    meter = make_meter(device)
    model, batch = make_model(size, meter.device), make_batch(size, meter.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    want = _gradients(_reference("logits"), model, batch)
    rows, skipped = [], []
    for level in ("logits", "linear"):
        found, absent = find_providers(level, device)
        skipped += [str(line) for line in absent]
        for provider in found:
            if not provider.weighted or (device == "cpu" and provider.slow_start):
                continue
            row: dict[str, Any] = {"level": level, "provider": provider.name, "ours": provider.ours}
            try:
                error = _largest_error(_gradients(provider, model, batch), want)
                row |= {
                    "relative_error": error,
                    "right": error <= _TOLERANCES[want[1].dtype.itemsize] * torch.finfo(want[1].dtype).eps,
                }
                if row["right"]:
                    train = _train_step(provider, model, batch, optimizer)
                    row |= {
                        "milliseconds": statistics.median(meter.milliseconds(train)),
                        "peak_mib": meter.peak_mib(train),
                    }
            # A rival that fails is a line of the table.
            except Exception as failure:
                row["message"] = f"{type(failure).__name__}: {str(failure)[:200]}"
            # What was timed has trained it, or failed half-way; the next is held against the first weights.
            optimizer.zero_grad()
            model.load_state_dict(make_model(size, meter.device).state_dict())
            rows.append(row)
    return {"device": device, "size": size.__dict__, "rows": rows, "skipped": skipped}


def _largest_error(got: list[Tensor], want: list[Tensor]) -> float:
    return max(
        float((a.double() - b.double()).abs().max() / b.double().abs().max())
        for a, b in zip(got, want, strict=True)
    )


def _train_step(provider: Provider, model: Any, batch: Batch, optimizer: Any) -> Callable[[], None]:
    def run() -> None:
        loss_of(provider, model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def in_words(found: dict[str, Any]) -> str:
    """The table."""
    size = found["size"]
    lines = [
        f"a step of a LLaVA, {size['batch']} x {size['length']} tokens, V = {size['vocabulary']}, "
        f"D = {size['hidden']}, {size['dtype']}, {found['device']}",
        f"{'level':<8} {'loss':<18} {'ms':>10} {'MiB':>8} {'relative error':>15}",
    ]
    for row in found["rows"]:
        if "milliseconds" in row:
            outcome = f"{row['milliseconds']:>10.1f} {row['peak_mib']:>8.0f} {row['relative_error']:>15.1e}"
        elif "message" in row:
            outcome = row["message"]
        else:
            outcome = f"not timed: relative error {row['relative_error']:.1e}"
        lines.append(f"{row['level']:<8} {row['provider']:<18} {outcome}")
    return "\n".join([*lines, *found["skipped"]])


def main() -> None:
    """Print the table, or with --json everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a model that only tries the code")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = measure(options.device, SIZES["tiny" if options.tiny else options.device])
    print(json.dumps(found, indent=1) if options.json else in_words(found))


if __name__ == "__main__":
    main()
