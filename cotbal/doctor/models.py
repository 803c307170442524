"""The model and the batch that are looked at: the user's own, or small random ones."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotbal._draws import own_draws
from cotbal.doctor.batches import special_ids
from cotbal.files import json_object, write_bytes_atomically

# A model without weights is built with so many layers: what is looked at comes after them.
_LAYERS = 2
# What from_pretrained reads; older models, as Vicuna, have the second alone.
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_ROWS, _LENGTH, _VALID = 2, 64, 0.3


def load_model(source: str | Path | None = None) -> Any:
    """A transformers model in training mode, on the CPU.

    Args:
        source: a folder with config.json and weights, one without weights, a config.json, PEFT's folder of an
            adapter, or None for a tiny Llama. Without weights the model is random, with two layers of its
            language model.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: its class is not one of transformers.
    """
    if source is None:
        return _random(_tiny_config()).train()
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            2, "no such folder or config.json; a model's name is not downloaded", str(source)
        )
    return (_adapted(path) if (path / "adapter_config.json").exists() else _own(path)).train()


def random_batch(model: Any, seed: int = 0) -> dict[str, Tensor]:
    """Two rows of random text, of which 30 % are labels; (2, S) int64 each.

    Raises:
        ValueError: not a model of language.
    """
    draw = torch.Generator().manual_seed(seed)
    config = model.config.get_text_config()
    if not hasattr(config, "vocab_size"):
        raise ValueError(
            f"model: expected a language model, got {type(model).__name__}, which has no vocabulary"
        )
    # Image tokens without an image would be an error.
    special = {value for value in special_ids(model.config.to_dict()) if value < config.vocab_size}
    usable = torch.tensor([token for token in range(config.vocab_size) if token not in special])
    length = min(_LENGTH, getattr(config, "max_position_embeddings", _LENGTH))
    ids = usable[torch.randint(len(usable), (_ROWS, length), generator=draw)]
    is_label = torch.rand(ids.shape, generator=draw) < _VALID
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.where(is_label, -100)}
    takes = inspect.signature(type(model).forward).parameters
    kinds = [name for name in ("token_type_ids", "mm_token_type_ids") if name in takes]
    return batch | {name: torch.zeros_like(ids) for name in kinds}


def save_batch(batch: Mapping[str, Any], path: str | Path) -> Path:
    """Return `path` after writing the tensors of a collator's batch there, for `load_batch`.

    safetensors itself takes no numbers, as `TaskCollator` puts one in, and neither views nor a BatchEncoding.
    """
    from safetensors.torch import save

    tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
    packed = {key: value.clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    return write_bytes_atomically(path, save(packed))


def load_batch(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as `save_batch` writes it: with `input_ids` and `labels`.

    Raises:
        ValueError: it is no such file, or holds no labels.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = 'write it with cotbal.doctor.save_batch(collator(records), "batch.safetensors")'
    try:
        batch: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a whole safetensors file, got {error}; {remedy}") from error
    if "labels" not in batch:
        raise ValueError(
            f"{path}: expected the tensors of a training batch with labels, got {', '.join(sorted(batch))}; "
            f"{remedy}"
        )
    return batch


def _own(path: Path) -> Any:
    from transformers import AutoConfig

    file = path / "config.json" if path.is_dir() else path
    config = AutoConfig.from_pretrained(_known(file), local_files_only=True)
    if not any(any(path.glob(pattern)) for pattern in _WEIGHTS):
        return _random(_shortened(config))
    return _class(config).from_pretrained(path, dtype="auto", local_files_only=True)


def _adapted(path: Path) -> Any:
    from peft import PeftConfig, PeftModel

    base = load_model(PeftConfig.from_pretrained(str(path)).base_model_name_or_path)
    return PeftModel.from_pretrained(base, str(path), is_trainable=True)


def _tiny_config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        architectures=["LlamaForCausalLM"],
    )


def _known(file: Path) -> Path:
    """The file, whose model type is one that transformers knows."""
    from transformers import CONFIG_MAPPING

    content = json_object(file, "a model's configuration", "save it anew with config.save_pretrained")
    model_type = content.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{file}: expected a model of transformers, got the model type {model_type!r}. LLaVA's own code "
            "is served by cotbal.patch(); its models in transformers' format (llava-hf) can be checked here"
        )
    return file


def _class(config: Any) -> Any:
    import transformers

    name = (config.architectures or [None])[0]
    found = getattr(transformers, name or "", None)
    if found is None:
        raise ValueError(
            f"architectures: expected a class of transformers in config.json, got {name!r}; put its name "
            'there, as "architectures": ["LlavaForConditionalGeneration"] (model.save_pretrained writes it)'
        )
    return found


def _random(config: Any) -> Any:
    with own_draws(0):
        return _class(config)(config)


def _shortened(config: Any) -> Any:
    text = config.get_text_config()
    text.num_hidden_layers = min(_LAYERS, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    return config
