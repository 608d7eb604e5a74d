"""Chat turns in a page."""

from __future__ import annotations

import json
from html import escape


def turns_text(messages: str) -> str:
    """Chat turns as text: one turn bare, several under their roles; what is not text as JSON."""
    turns = json.loads(messages)
    texts = [
        t["content"] if isinstance(t.get("content"), str) and set(t) <= {"role", "content"} else json.dumps(t, ensure_ascii=False)
        for t in turns
    ]
    return escape(texts[0] if len(turns) == 1 else "\n\n".join(f"[{t['role']}]\n{text}" for t, text in zip(turns, texts, strict=True)))


def plain_text(messages: str) -> str | None:
    """The text of a single turn that is nothing but text; null otherwise."""
    turns = json.loads(messages)
    alone = len(turns) == 1 and isinstance(turns[0].get("content"), str) and set(turns[0]) <= {"role", "content"}
    return str(turns[0]["content"]) if alone else None
