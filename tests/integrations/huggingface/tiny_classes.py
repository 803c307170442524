"""Classes of transformers' auto mappings, made tiny by the names of their configurations' fields."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

MAPPINGS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")
VOCABULARY = 300
# A part that no name makes small would take the memory and the time of all others.
_LARGEST = 30_000_000

_SIZES = {
    32: "hidden_size d_model n_embd embed_dim dim hidden_dim embedding_size word_embed_proj_dim output_dim "
    "text_hidden_size out_hidden_size projection_dim lru_width vision_hidden_size qformer_hidden_size",
    48: "intermediate_size ffn_dim n_inner d_ff encoder_ffn_dim decoder_ffn_dim intermediate_dim "
    "shared_expert_intermediate_size moe_intermediate_size dense_intermediate_size intermediate_size_mlp",
    2: "num_hidden_layers n_layer num_layers encoder_layers decoder_layers depth n_layers num_decoder_layers "
    "num_encoder_layers num_key_value_heads num_kv_heads num_experts_per_tok moe_k linear_num_key_heads",
    4: "num_attention_heads n_head num_heads encoder_attention_heads decoder_attention_heads n_heads "
    "num_experts num_local_experts n_routed_experts moe_num_experts patch_size linear_num_value_heads",
    8: "head_dim image_size q_lora_rank kv_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim state_size "
    "mamba_d_state mamba_n_heads mamba_d_head mamba_num_heads linear_key_head_dim linear_value_head_dim",
    1: "n_group topk_group n_groups mamba_n_groups first_k_dense_replace",
    64: "sliding_window",
    256: "max_position_embeddings n_positions n_ctx",
    VOCABULARY: "vocab_size decoder_vocab_size vocab_size_per_layer_input",
}
_TINY = {name: size for size, names in _SIZES.items() for name in names.split()}
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
# What some configurations want besides: each of these is tried until a forward runs.
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": 4},
    {"rope_parameters": _MROPE},
    {"num_hidden_layers": 4, "layer_types": None, "layers_block_type": None},
    {"per_layer_config": None},
    {"use_cache": False},
    {"head_dim": 16},
)


def classes() -> dict[str, str]:
    """The model type of each class."""
    found: dict[str, str] = {}
    for mapping in MAPPINGS:
        names = getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES", {})
        for model_type, own in names.items():
            for name in [own] if isinstance(own, str) else own:
                found.setdefault(name, model_type)
    return found


def tiny_model(name: str, variant: dict[str, Any]) -> Any:
    """The class in training mode.

    Raises:
        Exception: what its configuration or its code fails with.
    """
    kind = CONFIG_MAPPING[classes()[name]]
    values = dict(_tiny(kind().to_dict(), iter(range(VOCABULARY - 1, 0, -1)), variant))
    del values["model_type"]
    config = kind(**values)
    cls = getattr(transformers, name)
    if not isinstance(config, cls.config_class):
        config = config.get_text_config()
    torch.manual_seed(0)
    model = cls(config)
    if model.num_parameters() > _LARGEST:
        raise MemoryError(f"{model.num_parameters()} parameters")
    return model.train()


def _tiny(values: dict[str, Any], ids: Iterator[int], variant: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a configuration, nested ones too, made small by their names."""
    n_layers = next((values[key] for key in ("num_hidden_layers", "n_layer") if key in values), None)
    for key, value in values.items():
        if key in ("transformers_version", "architectures", "dtype", "id2label", "label2id"):
            continue
        if key in variant and (value is not None or key == "rope_parameters"):
            # A copy: a configuration writes into it.
            yield key, copy.deepcopy(variant[key])
        elif (
            isinstance(value, dict) and not key.startswith("rope") and all(isinstance(k, str) for k in value)
        ):
            yield key, dict(_tiny(value, ids, variant))
        elif "drop" in key or "jitter" in key or key.endswith("pdrop"):
            yield key, 0.0 if isinstance(value, float) else value
        elif type(value) is int and re.search("token_(id|index)$", key):
            special = {"pad": 0, "bos": 1, "dec": 1, "eos": 2}.get(key[:3])
            yield key, next(ids) if special is None else special
        elif type(value) is int and value > 0 and key in _TINY:
            yield key, min(value, _TINY[key])
        elif isinstance(value, list) and n_layers and len(value) == n_layers > 2:
            yield key, [value[0], value[-1]]
        else:
            yield key, value
