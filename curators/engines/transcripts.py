"""Between text and token ids: prompts through the chat template, continuations, sampled text, stop strings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from curators.engines.base import Request

_TORN = "\N{REPLACEMENT CHARACTER}"


def prompt_ids(tokenizer: Any, request: Request) -> tuple[str, tuple[int, ...]]:
    """Text and tokens of the messages as the chat template writes them, up to where the assistant begins, and `request.prefix` after that.

    The prefix follows the generation prompt as the model's own text would: a template that rewrites finished turns (drops reasoning,
    trims) must not rewrite a turn that is being written. Errors are the template's own.
    """
    text = tokenizer.apply_chat_template(
        [dict(message) for message in request.messages],
        tools=[dict(tool) for tool in request.tools] if request.tools else None,
        add_generation_prompt=True,
        tokenize=False,
        **(request.chat_template_kwargs or {}),
    )
    ids = encode(tokenizer, text)
    if not request.prefix:
        return text, ids
    return text + request.prefix, ids + continuation_ids(tokenizer, text, ids, request.prefix)


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def continuation_ids(tokenizer: Any, text: str, ids: tuple[int, ...], addition: str) -> tuple[int, ...]:
    """The tokens that `addition` takes after `text`, whose own tokens are `ids`.

    They are what the tokenizer makes of the whole; where it would merge across the seam, the addition is encoded alone, because the
    model that writes it has already seen `ids` and cannot take them back.
    """
    whole = encode(tokenizer, text + addition)
    return whole[len(ids) :] if whole[: len(ids)] == ids and len(whole) > len(ids) else encode(tokenizer, addition)


def decode(tokenizer: Any, ids: Sequence[int], *, after: Sequence[int] = ()) -> str:
    """Text without special tokens; bytes that are no whole character become U+FFFD.

    With `after`, what the ids add to the text of those: alone, a first token may lose its leading space.
    """
    begin = len(decode(tokenizer, after)) if after else 0
    return str(tokenizer.decode([*after, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False))[begin:]


def noise_key(ids: Sequence[int], *, seed: int, sample_index: int, attempt: int) -> int:
    """64 bits that decide a sample's noise: the prompt's tokens (so messages, tools, prefix), seed, sample index and attempt."""
    content = repr((list(ids), seed, sample_index, attempt)).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class StopStrings:
    """When a text holds one of the strings, and where to cut it.

    Decoding at every token would cost more than drawing it: only a token whose own text holds the last character of a stop string, or a
    torn character, can complete one (`suspects`).
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str], pieces: Sequence[str]) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        last = {string[-1] for string in self.strings} | {_TORN}
        self.suspects = frozenset(token for token, piece in enumerate(pieces) if not last.isdisjoint(piece))

    def complete(self, tokens: Sequence[int]) -> bool:
        text = decode(self.tokenizer, tokens).rstrip(_TORN)  # the next token may mend a torn character
        return any(string in text for string in self.strings)

    def cut(self, text: str) -> str:
        found = [place for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(found)] if found else text


def token_pieces(tokenizer: Any) -> list[str]:
    """What each token of the vocabulary adds after another one. About a second for 50,000 tokens: ask once."""
    anchor = encode(tokenizer, "a")
    return [decode(tokenizer, [token], after=anchor) for token in range(len(tokenizer))]
