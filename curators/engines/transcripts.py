"""Between text and token ids: prompts through the chat template, continuations, sampled text, stop strings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from curators.engines.base import Request, as_json

_TORN = "\N{REPLACEMENT CHARACTER}"


SEAMS = ("", "a", " a", "\n\n1", "é多")
"""What may follow a special token, to see whether a tokenizer reads it as it would alone."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text and its tokens. The text after the first `n_head` tokens, which the tokenizer reads as if nothing stood before it, is `tail`."""

    text: str
    ids: tuple[int, ...]
    n_head: int = 0
    tail: str = ""


class Prompts:
    """Requests as prompts. What the chat template made of messages is kept for the next request with the same ones.

    Tokenizers read what stands behind a special token by itself, so text that goes on after a template's last one is encoded from there on;
    where a tokenizer does not, all of it is.
    """

    def __init__(self, tokenizer: Any, *, n_kept: int = 1024) -> None:
        self.tokenizer, self._n_kept = tokenizer, n_kept
        self._kept: dict[str, Prompt] = {}
        self._special = frozenset(tokenizer.all_special_ids)
        self._separate: dict[int, bool] = {}

    def read(self, request: Request) -> Prompt:
        """The messages as the chat template writes them, up to where the assistant begins, and `request.prefix` after that.

        The prefix follows the generation prompt as the model's own text would: a template that rewrites finished turns (drops reasoning,
        trims) must not rewrite a turn that is being written. Errors are the template's own.
        """
        messages = [dict(message) for message in request.messages]
        tools = [dict(tool) for tool in request.tools] if request.tools else None
        key = as_json([messages, tools, request.chat_template_kwargs])
        if key not in self._kept:
            if len(self._kept) >= self._n_kept:
                del self._kept[next(iter(self._kept))]
            text = self.tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True, tokenize=False, **(request.chat_template_kwargs or {})
            )
            self._kept[key] = self._opening(text)
        prompt, prefix = self._kept[key], request.prefix
        if not prefix:
            return prompt
        return Prompt(prompt.text + prefix, prompt.ids + self.continuation(prompt, prefix), prompt.n_head, prompt.tail + prefix)

    def continuation(self, prompt: Prompt, addition: str) -> tuple[int, ...]:
        """The tokens that `addition` takes after the prompt.

        They are what the tokenizer makes of the whole; where it would merge across the seam, the addition is encoded alone, because the
        model that writes it has already seen the prompt's tokens and cannot take them back.
        """
        ids, whole = prompt.ids, self._whole(prompt, addition)
        return whole[len(ids) :] if whole[: len(ids)] == ids and len(whole) > len(ids) else encode(self.tokenizer, addition)

    def _whole(self, prompt: Prompt, addition: str) -> tuple[int, ...]:
        if not prompt.n_head:
            return encode(self.tokenizer, prompt.text + addition)
        tail = self.tokenizer.backend_tokenizer.encode(prompt.tail + addition, add_special_tokens=False).ids
        return prompt.ids[: prompt.n_head] + tuple(tail)

    def _opening(self, text: str) -> Prompt:
        plain = Prompt(text, encode(self.tokenizer, text))
        n_head = max((i for i, token in enumerate(plain.ids, 1) if token in self._special), default=0)
        if not n_head or not hasattr(self.tokenizer, "backend_tokenizer"):
            return plain
        last = plain.ids[n_head - 1]
        _, found, tail = text.rpartition(self.tokenizer.convert_ids_to_tokens(last))
        split = Prompt(text, plain.ids, n_head, tail)
        if last not in self._separate:
            self._separate[last] = bool(found) and all(self._whole(split, seam) == self._whole(plain, seam) for seam in SEAMS)
        return split if self._separate[last] else plain


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokenizer: Any, ids: Sequence[int], *, after: Sequence[int] = ()) -> str:
    """Text without special tokens; bytes that are no whole character become U+FFFD.

    With `after`, what the ids add to the text of those: alone, a first token may lose its leading space.
    """
    begin = len(decode(tokenizer, after)) if after else 0
    return str(tokenizer.decode([*after, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False))[begin:]


def noise_keys(ids: Sequence[int], *, seed: int, samples: Iterable[int], attempt: int) -> list[int]:
    """64 bits for each sample index that decide its noise: the prompt's tokens (so messages, tools, prefix), seed, index and attempt."""
    shared = hashlib.blake2b(f"({list(ids)!r}, {seed!r}, ".encode(), digest_size=8)
    keys = []
    for index in samples:
        own = shared.copy()
        own.update(f"{index!r}, {attempt!r})".encode())
        keys.append(int.from_bytes(own.digest(), "little"))
    return keys


class StopStrings:
    """When a text holds one of the strings, and where to cut it.

    Decoding at every token would cost more than drawing it: only a token whose own text holds the last character of a stop string, or a
    torn character, can complete one (`suspects`).
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str], pieces: Sequence[str]) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        last = {string[-1] for string in self.strings} | {_TORN}
        self.suspects = frozenset(token for token, piece in enumerate(pieces) if not last.isdisjoint(piece))
        self._whole = frozenset(token for token in self.suspects if self._in(pieces[token].lstrip(" ")))

    def complete(self, tokens: Sequence[int]) -> bool:
        if tokens[-1] in self._whole:
            return True
        text = decode(self.tokenizer, tokens).rstrip(_TORN)  # the next token may mend a torn character
        return self._in(text)

    def _in(self, text: str) -> bool:
        return any(string in text for string in self.strings)

    def cut(self, text: str) -> str:
        found = [place for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(found)] if found else text


def token_pieces(tokenizer: Any) -> list[str]:
    """What each token of the vocabulary adds after another one. About a second for 50,000 tokens: ask once."""
    anchor = encode(tokenizer, "a")
    return [decode(tokenizer, [token], after=anchor) for token in range(len(tokenizer))]
