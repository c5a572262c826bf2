"""The policy's words: a tokenizer made from its instructions, and prompts of one fixed length.

A prompt is laid out as transformers' `PI0Processor` does: image tokens, `<bos>`, the instruction, a line end, padding.
Padding tokens are ordinary attended tokens here (no attention mask), in training as on the robot: every position is
fixed, so the network's shapes and masks are constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

IMAGE_TOKEN = "<image>"


def build_tokenizer(instructions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a word-level tokenizer that knows the words of `instructions` (ids 0-4: pad, bos, unk, image, line end)."""
    words = sorted({word for instruction in instructions for word in instruction.split()})
    vocabulary = ["<pad>", "<bos>", "<unk>", IMAGE_TOKEN, "\n", *words]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_tokens([AddedToken("\n", normalized=False)])  # else it is split away as white space
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=[IMAGE_TOKEN],
    )


def longest_text(tokenizer: PreTrainedTokenizerFast, instructions: Sequence[str]) -> int:
    """Count the tokens of the longest instruction, with its `<bos>` and line end."""
    return max(len(_text_ids(tokenizer, instruction)) for instruction in instructions)


def prompt_ids(
    tokenizer: PreTrainedTokenizerFast, instruction: str, image_tokens: int, text_length: int
) -> torch.Tensor:
    """Lay out one prompt.

    Args:
        tokenizer: of the bundle; knows `<image>`, `<bos>`, `<pad>` and a line end.
        instruction: one sentence.
        image_tokens: of all cameras together.
        text_length: tokens after them, as the manifest says.

    Returns:
        [image_tokens + text_length] token ids.

    Raises:
        ValueError: the instruction is longer than `text_length`.
    """
    text = _text_ids(tokenizer, instruction)
    if len(text) > text_length:
        raise ValueError(f"instruction {instruction!r} has {len(text)} tokens, expected at most {text_length}")
    image = [tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)] * image_tokens
    padding = [tokenizer.pad_token_id] * (text_length - len(text))
    return torch.tensor(image + text + padding, dtype=torch.long)


def _text_ids(tokenizer: PreTrainedTokenizerFast, instruction: str) -> list[int]:
    ids: list[int] = tokenizer(f"{tokenizer.bos_token}{instruction}\n", add_special_tokens=False)["input_ids"]
    return ids
