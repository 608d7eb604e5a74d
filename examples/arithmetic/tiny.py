"""Tiny Llama models with a chat template: tokenizer, configuration, batches, the training loop, sampling, saving.

Everything goes through `transformers`, so that the folders it writes load like any hub model. One thread is the
fastest way to run several such processes on a shared machine.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
VOCABULARY = 640
CONTEXT = 1024
IGNORED = -100
# Single digits; a space before a digit belongs to the word before it, any other space to the word after it.
_PIECES = r"\d| ?\p{L}+(?: (?=\d))?| ?[^\s\p{L}\d]+(?: (?=\d))?|\s+"

Example = tuple[list[int], int]
"""Token ids of prompt and completion, and how many of them are the prompt."""


def build_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE that encodes any text, with the chat template of `chat_template.jinja`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_PIECES), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = (HERE / "chat_template.jinja").read_text(encoding="utf-8")
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """A fresh Llama with about 0.7 M parameters: hidden 128, 3 layers, 4 heads, tied embeddings."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def load(folder: str | Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A saved model, in 32-bit, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write an ordinary model folder with bfloat16 weights; the model in memory stays as it is."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.bfloat16)
    copy.generation_config.do_sample = True
    copy.generation_config.eos_token_id = tokenizer.eos_token_id
    copy.generation_config.pad_token_id = tokenizer.pad_token_id
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def prompt_text(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> str:
    """The prompt as the chat template writes it, up to where the assistant begins."""
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], completion: str) -> Example:
    """One training example; the completion ends with `<|im_end|>`."""
    prompt = tokenizer(prompt_text(tokenizer, messages), add_special_tokens=False)["input_ids"]
    answer = tokenizer(completion + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return prompt + answer, len(prompt)


def bucketed(stream: Iterator[Example], *, batch: int, pool: int = 16) -> Iterator[list[Example]]:
    """Batches of examples of similar length, so that little of a batch is padding; their order is shuffled."""
    rng = random.Random(0)
    while True:
        drawn = sorted((next(stream) for _ in range(batch * pool)), key=lambda example: len(example[0]))
        batches = [drawn[i : i + batch] for i in range(0, len(drawn), batch)]
        rng.shuffle(batches)
        yield from batches


def collate(examples: Sequence[Example], *, pad: int, prompt_loss: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels, both (batch, longest); a label that is not learned is -100."""
    longest = max(len(ids) for ids, _ in examples)
    ids = torch.full((len(examples), longest), pad)
    labels = torch.full((len(examples), longest), IGNORED)
    for row, (tokens, prompt) in enumerate(examples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        begin = 0 if prompt_loss else prompt
        labels[row, begin : len(tokens)] = torch.tensor(tokens[begin:])
    return ids, labels


def completion_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor, *, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy over the learned tokens, weighted by token (`weight`, one number for each of the vocabulary).

    The output layer runs on the learned positions alone.

    No attention mask is needed: padding stands on the right, and attention is causal.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    target = labels[:, 1:]
    learned = target != IGNORED
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]), target[learned], weight=weight)


def train(
    model: LlamaForCausalLM,
    batches: Iterator[list[Example]],
    *,
    pad: int,
    minutes: float,
    peak: float,
    prompt_loss: bool = False,
    weight: torch.Tensor | None = None,
    on_checkpoint: Callable[[int], None] | None = None,
    checkpoint_minutes: float = 5.0,
) -> int:
    """AdamW for a number of minutes, the rate rising for the first 2 % and falling as a cosine; returns the steps.

    The schedule follows the clock and not a step count, so that a slower machine takes fewer steps in the same time.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    began = saved = time.monotonic()
    done, step, recent = 0.0, 0, 0.0
    while done < 1:
        ids, labels = collate(next(batches), pad=pad, prompt_loss=prompt_loss)
        loss = completion_loss(model, ids, labels, weight=weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        done = min(1.0, (time.monotonic() - began) / (60 * minutes))
        rate = peak * min(1.0, max(done, 0.001) / 0.02) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, recent = step + 1, 0.95 * recent + 0.05 * loss.item() if step else loss.item()
        if step % 20 == 0:
            print(f"step {step} minute {(time.monotonic() - began) / 60:.1f} loss {recent:.4f} lr {rate:.2e}", flush=True)
        if on_checkpoint and time.monotonic() - saved > 60 * checkpoint_minutes:
            on_checkpoint(step)
            saved = time.monotonic()
    return step


@torch.inference_mode()
def sample(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[list[dict[str, str]]],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int = 0,
    batch: int = 96,
) -> list[str]:
    """One completion for each conversation, without its end mark; temperature 0 is greedy."""
    model.eval()
    torch.manual_seed(seed)
    texts = [prompt_text(tokenizer, messages) for messages in conversations]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = [""] * len(texts)
    for begin in range(0, len(order), batch):
        rows = order[begin : begin + batch]
        inputs = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        chosen = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            **chosen,
        )
        replies = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, reply in zip(rows, replies, strict=True):
            out[i] = reply
    return out
