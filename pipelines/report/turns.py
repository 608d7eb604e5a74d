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
