"""The chat template that is saved with the model, beside the template that LLaMA-Factory trains on."""

from typing import Any

_QUESTION = "What is it?"
_AGREES = "chat template: the one that is saved with the model asks as the training does"


def compared_prompts(template: Any, tokenizer: Any, processor: Any) -> str:
    """A line that says whether a question is asked by the saved chat template as it is trained on.

    LLaMA-Factory writes its prompts by a template of its own and saves the tokenizer with the chat template
    that it came with, or with its own one where it had none; generation has that alone.

    Args:
        template: LLaMA-Factory's.
        tokenizer: as it is saved.
        processor: likewise; None for a model of text alone.
    """
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": ""}]
    trained = template.encode_multiturn(tokenizer, turns)[0][0]
    parts = [{"type": "text", "text": _QUESTION}]
    asked = [{"role": "user", "content": _QUESTION if processor is None else parts}]
    try:
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    # As the template comes from anywhere, so do its errors.
    except Exception as error:
        return f"chat template: the one that is saved cannot ask: {error}; give generation --chat-template"
    # As a processor does it: a tokenizer adds nothing.
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    adds = processor is not None and not begun
    ids = tokenizer.encode(text, add_special_tokens=adds)
    if ids == trained:
        return _AGREES
    return (
        f"chat template: the one that is saved asks {tokenizer.decode(ids)!r}, the training "
        f"{tokenizer.decode(trained)!r}; give generation --chat-template or --system, so that both agree"
    )
