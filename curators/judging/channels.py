"""By which channel a judge's verdict is read, from the strongest to the weakest.

| channel | the verdict is | needs |
|---|---|---|
| `options` | the log-probabilities of the rubric's labels | `labels` in the rubric, an engine that gives log-probabilities of options |
| `json` | a value of the JSON object that the judge writes | `# reply` in the rubric, an engine that holds replies to a schema |
| `text` | in the text that the judge writes, by the rubric's grammar | nothing |

`auto` takes the strongest that rubric and engine allow; repeated votes make the last two a frequency. Nothing weaker than `min_channel` is
ever used: a judge that cannot be asked so is an error before the first call, and a reply that can only be read so is no verdict.

What a server says it can do is not what it does: many take `response_format` and ignore it. `shown_capabilities` asks once for a small
object and believes the answer. The ladder is that of judging.md 5.2 (log-probabilities, JSON schema, text).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import orjson

from curators.engines.base import Capability, Engine, Request, Sampling
from curators.errors import ConfigError
from curators.judging.rubric import Rubric

Channel = Literal["options", "json", "text"]
LADDER: tuple[Channel, ...] = ("options", "json", "text")

_PROBE = {"type": "object", "properties": {"sky": {"type": "string", "enum": ["blue"]}}, "required": ["sky"], "additionalProperties": False}


def channels(
    rubric: Rubric,
    capabilities: Collection[str],
    *,
    channel: Literal["auto"] | Channel = "auto",
    min_channel: Channel = "text",
) -> tuple[Channel, ...]:
    """The channels that a judge may be asked and read by, strongest first; never empty. A channel that is named is the only one.

    >>> from curators.judging.rubric import load_rubric
    >>> channels(load_rubric("pairwise"), {"options", "json_schema"}), channels(load_rubric("pairwise-letter"), {"options"})
    (('json', 'text'), ('options', 'text'))

    Raises:
        ConfigError: the rubric or the engine does not allow the channel that is named, or none as strong as `min_channel`.
    """
    lacking = {
        "options": None if rubric.labels else "`labels` in the rubric's header",
        "json": None if rubric.reply else "a section `# reply` in the rubric",
        "text": None,
    }
    enough = LADDER[: LADDER.index(min_channel) + 1]
    if channel != "auto":
        if missing := lacking[channel]:
            raise ConfigError(f"rubric {rubric.name!r}: channel {channel} needs {missing}; add it or use channel text")
        if channel not in enough:
            raise ConfigError(f"judge: channel {channel} is weaker than min_channel {min_channel}; the ladder is {' > '.join(LADDER)}")
        return (channel,)
    able = {"options": "options" in capabilities, "json": "json_schema" in capabilities, "text": True}
    if found := tuple(rung for rung in enough if able[rung] and lacking[rung] is None):
        return found
    why = "; ".join(f"{rung}: " + (f"needs {lacking[rung]}" if lacking[rung] else "the engine does not do it") for rung in enough)
    raise ConfigError(f"judge: rubric {rubric.name!r} cannot be asked by min_channel {min_channel} or better ({why})")


async def shown_capabilities(rubric: Rubric, engine: Engine, *, channel: Literal["auto"] | Channel = "auto") -> frozenset[Capability]:
    """What the engine can do, `json_schema` only where it has just held a reply to one. Asks nothing where that decides nothing."""
    claimed = engine.capabilities
    if channel != "auto" or "json_schema" not in claimed or channels(rubric, claimed)[0] != "json":
        return claimed
    reply = await engine.complete(
        Request(
            key="judge/which-channel",
            messages=[{"role": "user", "content": 'What colour is the sky? Reply with one JSON object that has the key "sky".'}],
            sampling=Sampling(temperature=0.0, max_tokens=256),
            json_schema=_PROBE,
        )
    )
    return claimed if reply.completions and _is_the_object(reply.completions[0].text) else claimed - {"json_schema"}


def _is_the_object(text: str) -> bool:
    """Exactly the object and nothing around it: only a schema that was held to gives this every time."""
    try:
        return bool(orjson.loads(text) == {"sky": "blue"})
    except orjson.JSONDecodeError:
        return False
