"""Log-probabilities of given answers under a causal language model: what a reference policy makes of a pair.

    log p(y | x) = sum over the tokens of y of log p(y_t | x, y_<t)          natural logs; the tokens of x do not count

Tokens are those of DPO trainers (TRL 1.16): the prompt through the chat template with its generation prompt, the whole conversation through
the same template, and what follows their common beginning is the answer, its end-of-turn token included. The numbers are the model's own
forward pass in float32 at temperature 1; rows of a batch are padded at the end and masked, so that no number depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from curators.engines.base import digest
from curators.errors import EngineError

BATCH_TOKENS = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """`logp` is the sum over `n_tokens`. With a `reason` there is no number."""

    logp: float | None = None
    n_tokens: int = 0
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """An answer to score: JSON messages of the prompt and of the answer, JSON tools and template arguments (null: none)."""

    prompt: str
    answer: str
    tools: str | None = None
    chat_template_kwargs: str | None = None

    def key(self, fingerprint: str) -> str:
        """The content id of the question: this text under those weights and that tokenizer."""
        return digest("logp", fingerprint, self.prompt, self.answer, self.tools, self.chat_template_kwargs)


class Scorer:
    """A model directory, loaded once. Its `fingerprint` covers weights, tokenizer and chat template.

    Raises:
        EngineError: there is no such model, it does not load, or it has no chat template.
    """

    def __init__(self, path: str | Path, *, device: str | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from curators.engines.fingerprint import fingerprint
        from curators.engines.models import first_line, loading

        folder = Path(path).expanduser()
        self.fingerprint = fingerprint(folder)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            with loading():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
                model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
                self._model = model.to(place).eval()
        except Exception as error:
            raise EngineError(f"{path}: the model does not load: {type(error).__name__}: {first_line(error)}") from error
        if not self._tokenizer.chat_template:
            raise EngineError(f"{path}: the tokenizer has no chat template; put a chat_template.jinja beside the weights")
        self.context = int(getattr(self._model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20)

    def tokens(self, text: Text) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of the answer."""
        asked, said = orjson.loads(text.prompt), orjson.loads(text.answer)
        options: dict[str, Any] = {"return_dict": True, **orjson.loads(text.chat_template_kwargs or "{}")}
        if text.tools:
            options["tools"] = orjson.loads(text.tools)
        prompt = self._tokenizer.apply_chat_template(asked, add_generation_prompt=True, **options)["input_ids"]
        whole = self._tokenizer.apply_chat_template([*asked, *said], **options)["input_ids"]
        shared = next((i for i, (one, other) in enumerate(zip(prompt, whole, strict=False)) if one != other), min(len(prompt), len(whole)))
        return list(whole[:shared]), list(whole[shared:])

    def score(self, texts: Sequence[Text]) -> list[Scored]:
        """One for each, in order. A text that does not fit the model's context, or that its template refuses, has a reason."""
        found: list[Scored] = [Scored(reason="not scored")] * len(texts)
        rows: list[tuple[int, list[int], list[int]]] = []
        for place, text in enumerate(texts):
            try:
                prompt, answer = self.tokens(text)
            except Exception as error:
                found[place] = Scored(reason=f"the chat template refuses it: {error}")
                continue
            if len(prompt) + len(answer) > self.context:
                found[place] = Scored(reason=f"{len(prompt) + len(answer)} tokens, and the model holds {self.context}")
            elif not answer or not prompt:
                found[place] = Scored(reason="no token of prompt or answer")
            else:
                rows.append((place, prompt, answer))
        for batch in _batches(rows):
            for (place, _, answer), logp in zip(batch, self._logps(batch), strict=True):
                found[place] = Scored(logp=logp, n_tokens=len(answer))
        return found

    def _logps(self, batch: Sequence[tuple[int, list[int], list[int]]]) -> list[float]:
        import torch

        longest = max(len(prompt) + len(answer) for _, prompt, answer in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, (_, prompt, answer) in enumerate(batch):
            whole = torch.tensor(prompt + answer)
            ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            logps = logits.float().log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0].double()
        return [float(logps[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].sum()) for row, (_, prompt, answer) in enumerate(batch)]


def _batches(rows: Sequence[tuple[int, list[int], list[int]]]) -> Iterator[list[tuple[int, list[int], list[int]]]]:
    """Rows of about the same length together, as many as `BATCH_TOKENS` hold."""
    batch: list[tuple[int, list[int], list[int]]] = []
    for row in sorted(rows, key=lambda row: (len(row[1]) + len(row[2]), row[0])):
        longest = len(row[1]) + len(row[2])
        if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
