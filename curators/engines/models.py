"""Finding and loading a transformers model, and making sure that it can run in rows."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from curators.engines.attention import ATTENTION
from curators.engines.decoding import Decoder
from curators.engines.fingerprint import PARTS, fingerprint
from curators.engines.groups import Sample, Scoring
from curators.errors import EngineError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

_ONE_LOAD = threading.Lock()

TOLERANCE_PER_TOKEN = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
"""By how much a log-probability in rows may differ from the model's own forward pass, at load. In bfloat16 two of a model's own ways to
compute attention differ by 0.1 to 0.2 a token, in float32 by 1e-5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """`end_ids` end a turn; `context` is the number of tokens that prompt and answer may have together."""

    model: Any
    tokenizer: Any
    end_ids: frozenset[int]
    context: int


def locate(path: str, *, kind: str = "hf") -> Path:
    """The directory or `.gguf` file that `PATH[@REV]` means; a hub name `org/name[@revision]` is downloaded, or found in the hub's cache.
    `kind` is the spec's, for errors.

    Raises:
        EngineError: nothing is there, it is no model, or its fingerprint does not begin with REV.
    """
    file, revision = Path(path).expanduser(), None
    if not file.exists() and "@" in path:
        path, revision = path.rsplit("@", 1)
        file = Path(path).expanduser()
    if not file.exists():
        return _from_hub(path, revision, kind)
    if file.is_file() and file.suffix != ".gguf":
        raise EngineError(f"{kind}:{path}: this is a file; allowed are a model directory and a .gguf file")
    if file.is_dir() and not (file / "config.json").is_file():
        raise EngineError(f"{kind}:{path}: no config.json in this directory; save a transformers model there")
    if revision is not None and not (found := fingerprint(file)).startswith(revision):
        raise EngineError(f"{kind}:{path}@{revision}: the model there is {found}; pin that fingerprint, or leave out @{revision}")
    return file


def _from_hub(path: str, revision: str | None, kind: str) -> Path:
    from huggingface_hub import snapshot_download

    if not _HUB_NAME.fullmatch(path):
        raise EngineError(f"{kind}:{path}: there is no such directory or .gguf file; give the path of a saved transformers model")
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(PARTS)))
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise EngineError(f"{kind}:{path}: no such directory, and the hub has none to give either ({reason}); check the path") from error


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")


def load_model(file: Path, *, dtype: str, device: str | None) -> LoadedModel:
    """Load model and tokenizer, and prove on a few tokens that rows give the model's own numbers.

    Raises:
        EngineError: it does not load, has no chat template, or cannot run in rows.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    wanted = ("float32" if place.type == "cpu" else "auto") if dtype == "auto" else dtype
    options: dict[str, Any] = {"dtype": wanted if wanted == "auto" else getattr(torch, wanted)}
    source = str(file)
    try:
        tokenizer_options: dict[str, Any] = {}
        if file.suffix == ".gguf":
            from transformers import GgufConfig

            source, tokenizer_options = str(file.parent), {"gguf_file": file.name}
            options |= {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True)}
        with loading():
            tokenizer = AutoTokenizer.from_pretrained(source, **tokenizer_options)
            model: Any = AutoModelForCausalLM.from_pretrained(source, **options)
            model = model.to(place).eval()
    except Exception as error:
        raise EngineError(f"{file}: the model does not load: {type(error).__name__}: {first_line(error)}; check its files") from error
    if not tokenizer.chat_template:
        raise EngineError(f"{file}: the tokenizer has no chat template; put a chat_template.jinja beside the weights")
    windows = _prove(model, tokenizer, file)
    text_config = model.config.get_text_config()
    limits = [limit for limit in (getattr(text_config, "max_position_embeddings", None), *windows) if limit]
    return LoadedModel(model=model, tokenizer=tokenizer, end_ids=_end_ids(model, tokenizer), context=min(limits, default=1 << 20))


@contextmanager
def loading() -> Iterator[None]:
    """One load at a time, which transformers needs (it changes torch's defaults meanwhile), and no progress bars: a run has its own."""
    library: Any = logging
    with _ONE_LOAD:
        shown = library.is_progress_bar_enabled()
        library.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                library.enable_progress_bar()


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(int(end) for end in (*listed, tokenizer.eos_token_id) if end is not None)


def _prove(model: Any, tokenizer: Any, file: Path) -> set[int]:
    """Compare rows with the model's own forward pass, on samples side by side and on a scored continuation. Returns attention windows.

    This catches attention that is not plain (biases, soft caps, sinks, recurrent layers) before it can give wrong samples.
    """
    ids = tokenizer("The quick brown fox jumps over the lazy dog.", add_special_tokens=False)["input_ids"]
    prompt = tuple(ids[:12]) if len(ids) > 5 else tuple(range(6))
    samples = [Sample(prompt, key=key, max_tokens=3) for key in (1, 2)]
    scoring = Scoring(prompt[:3], [prompt[3:], prompt[4:]])
    own_attention = model.config._attn_implementation
    try:
        with torch.inference_mode():
            expected = [_own_logprobs(model, scoring.prompt, option) for option in scoring.options]
            model.set_attn_implementation(ATTENTION)
            decoder = _run(model, samples, scoring)
            model.set_attn_implementation(own_attention)
            expected += [_own_logprobs(model, prompt, tuple(sample.tokens)) for sample in samples]
            model.set_attn_implementation(ATTENTION)
    except Exception as error:
        raise _cannot_run(file, model, f"{type(error).__name__}: {first_line(error)}") from error
    asked = decoder.cache.asked
    if asked.features:
        raise _cannot_run(file, model, f"its attention asks for {sorted(asked.features)}")
    if len(decoder.cache.places) != (n_layers := model.config.get_text_config().num_hidden_layers):
        raise _cannot_run(file, model, f"{len(decoder.cache.places)} of its {n_layers} layers attend in the plain way")
    found = [*scoring.logprobs, *(sum(sample.logprobs) for sample in samples)]
    lengths = [*map(len, scoring.options), *(len(sample.tokens) for sample in samples)]
    worst = max(abs(a - b) / n for a, b, n in zip(found, expected, lengths, strict=True))
    if not worst <= TOLERANCE_PER_TOKEN.get(model.dtype, 0.5):
        raise _cannot_run(file, model, f"its log-probabilities come out different by {worst:.3g} a token")
    return asked.windows


def _run(model: Any, samples: list[Sample], scoring: Scoring) -> Decoder:
    decoder = Decoder(model, end_ids=frozenset(), max_rows=2)
    work: list[Sample | Scoring] = [*samples, scoring]
    for each in work:
        decoder.submit(each)
    while not decoder.idle:
        decoder.step()
    return decoder


def _cannot_run(file: Path, model: Any, reason: str) -> EngineError:
    advice = "serve it with vLLM, SGLang or `transformers serve` and use openai:"
    return EngineError(f"{file}: {type(model).__name__} cannot run with shared rows: {reason}; {advice}")


def _own_logprobs(model: Any, before: tuple[int, ...], after: tuple[int, ...]) -> float:
    ids = torch.tensor([before + after], device=model.device)
    logprobs = model(input_ids=ids, use_cache=False).logits[0, len(before) - 1 : -1].float().log_softmax(-1)
    return float(logprobs.gather(1, ids[0, len(before) :, None]).sum())
