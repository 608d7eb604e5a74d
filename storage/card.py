"""The card of a version on the Hugging Face Hub: what it is, how to load it, and everything that its manifest says of how it was made.

The head is the metadata that the Hub reads ("Dataset Cards" in its documentation): one config per view, licences and languages
as they were given, a size category. Only what may be public goes in: `public` leaves out who published the version, addresses of
endpoints, directories, and what only a lake can use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from storage.views import VIEWS
from storage.views.view import Column

PUBLIC = frozenset(
    {"kind", "name", "version", "digest", "facts_digest", "n_pairs", "created_at", "parents", "recipe", "recipe_digest", "code_digest"}
    | {"seed", "policy", "policy_spec", "judge", "reward", "funnel", "health", "search", "rationales", "contrast", "selection", "trial"}
    | {"audit", "gates", "counts", "on_policy_share", "capped", "source"}
)
PRIVATE = ("author", "lake", "api_key_env")
TAGS = ("preference-data", "rlhf", "pairmill")

_ENDPOINT = re.compile(r"@https?://\S*")
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_DIRECTORY = re.compile(r"^([a-z_-]+:)?(?:~|/)\S*/(?=[^/\s]+/?$)|^((?:[a-z_-]+:)?)(?:\.\./)+(?:\S*/)?(?=[^/\s]+/?$)")


def public(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a version's manifest may be read by everybody.

    >>> public({"author": "ann", "seed": 3, "recipe": {"policy": "openai:m@http://10.0.0.1/v1", "prompts": "/home/ann/p.jsonl"}})
    {'seed': 3, 'recipe': {'policy': 'openai:m', 'prompts': 'p.jsonl'}}
    """
    return {name: _public(manifest[name]) for name in manifest if name in PUBLIC and manifest[name] is not None}


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_public(name): _public(each) for name, each in value.items() if name not in PRIVATE}
    if isinstance(value, (list, tuple)):
        return [_public(each) for each in value]
    if isinstance(value, str):
        return _DIRECTORY.sub(lambda found: found[1] or found[2] or "", _LOGIN.sub("", _ENDPOINT.sub("", value)))
    return value


def card(about: Mapping[str, Any], quality: Sequence[Mapping[str, Any]]) -> str:
    """README.md of a folder whose `pairmill.json` is `about` (without the files); `quality` has one row a figure."""
    head = yaml.safe_dump(metadata(about), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in _parts(about, quality) if part) + "\n"


def metadata(about: Mapping[str, Any]) -> dict[str, Any]:
    """The card's head. What is not known is not there."""
    request, views = about["request"], about["views"]
    configs = [
        {"config_name": view, "data_files": [{"split": split, "path": f"{view}/{split}-*.parquet"} for split in found["splits"]]}
        for view, found in views.items()
    ]
    configs[0]["default"] = True
    licenses = request["licenses"]
    return {
        "pretty_name": request["dataset"],
        **({"license": licenses[0] if len(licenses) == 1 else licenses} if licenses else {}),
        **({"language": request["languages"]} if request["languages"] else {}),
        "size_categories": [size_category(max(_rows(found) for found in views.values()))],
        "task_categories": ["text-generation"],
        "tags": [*TAGS, *views],
        "configs": configs,
    }


def size_category(n_rows: int) -> str:
    """The Hub's name for so many rows.

    >>> [size_category(n) for n in (999, 1000, 25_000, 10**6)]
    ['n<1K', '1K<n<10K', '10K<n<100K', '1M<n<10M']
    """
    names = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    for power, (low, high) in enumerate(zip(("", *names), names, strict=False), start=3):
        if n_rows < 10**power:
            return f"{low}<n<{high}" if low else f"n<{high}"
    return "n>1T"


def _rows(view: Mapping[str, Any]) -> int:
    return sum(split["rows"] for split in view["splits"].values())


def _parts(about: Mapping[str, Any], quality: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    request, views, manifest = about["request"], about["views"], about["manifest"]
    first = next(iter(views))
    yield f"# {request['dataset']}, version {request['version']}"
    yield f"{manifest.get('n_pairs', 0):,} preference pairs, published by Pairmill. Content digest `{request['digest']}`."
    yield "## Loading"
    load = f'load_dataset("{request["repo"]}", "{first}", revision="v{request["version"]}")'
    yield f"```python\nfrom datasets import load_dataset  # 5.2 or newer\n\n{load}\n```"
    yield f"The tag `v{request['version']}` always has this version; without `revision` comes the one that was exported last."
    yield "## Views"
    yield _table(_view_rows(views))
    for view, found in views.items():
        meanings = VIEWS[view].columns
        yield f"### `{view}`\n\nOne row is {VIEWS[view].row}. For {VIEWS[view].trainers}."
        yield _table(
            [{"column": f"`{name}`", "holds": kind, "meaning": _meaning(meanings.get(name))} for name, kind in found["columns"].items()]
        )
    yield "## Where it comes from\n\n" + _table(_provenance(manifest))
    yield "## Licence\n\n" + _licences(request["licenses"])
    if funnel := manifest.get("funnel"):
        yield "## Funnel\n\nRows in = rows kept + rows dropped, at every stage.\n\n" + _table(_funnel_rows(funnel))
    if gates := manifest.get("gates"):
        told = [{"gate": gate["name"], "passed": "yes" if gate["passed"] else "no", "detail": gate.get("detail")} for gate in gates]
        yield "## Gates\n\nWhat the version had to pass to be published.\n\n" + _table(told)
    if quality:
        yield "## Quality\n\n" + _table(quality)
    if recipe := manifest.get("recipe"):
        yield "## Recipe\n\n" + _fenced(yaml.safe_dump(recipe, sort_keys=True, allow_unicode=True), "yaml")


def _meaning(column: Column | None) -> str:
    """What a column means; nothing of one that only this version's rows have."""
    return column.meaning if column is not None else ""


def _view_rows(views: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "config": f"`{view}`",
            "split": split,
            "rows": f"{told['rows']:,}",
            "files": len(told["files"]),
            "digest": f"`{told['digest'][:12]}`",
        }
        for view, found in views.items()
        for split, told in found["splits"].items()
    ]


def _provenance(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a fact; what the manifest does not say is not there."""
    share = manifest.get("on_policy_share")
    parents = [f"{parent['ref']} (`{parent['digest'][:12]}`)" for parent in manifest.get("parents") or ()]
    facts = {
        "made by": f"flow {manifest['kind']}" if manifest.get("kind") else None,
        "published": manifest.get("created_at"),
        "made from": ", ".join(parents) or None,
        "policy": manifest.get("policy_spec"),
        "policy fingerprint": _code(manifest.get("policy")),
        "on-policy share": None if share is None else f"{share:.1%}",
        "judge": _code(manifest.get("judge")),
        "reward model": _code(manifest.get("reward")),
        "seed": manifest.get("seed"),
        "recipe digest": _code(manifest.get("recipe_digest")),
        "code digest": _code(manifest.get("code_digest")),
        "content digest": _code(manifest.get("digest")),
        "digest of the facts": _code(manifest.get("facts_digest")),
        "ended early by the cap on": manifest.get("capped"),
    }
    return [{"what": name, "value": value} for name, value in facts.items() if value is not None]


def _code(value: Any) -> str | None:
    return None if value is None else f"`{value}`"


def _licences(licenses: Sequence[str]) -> str:
    if licenses:
        return f"{', '.join(licenses)}, as stated by who exported it."
    return "None was stated. What its prompts and answers are under is for whoever uses it to find out."


def _funnel_rows(funnel: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage["stage"],
            "unit": stage["unit"],
            "in": f"{stage['n_in']:,}",
            "kept": f"{stage['n_kept']:,}",
            "dropped": ", ".join(f"{n:,} {reason}" for reason, n in stage["dropped"].items()),
        }
        for stage in funnel
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    return "" if value is None else " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())


def _fenced(text: str, language: str) -> str:
    """A block of code whose fence is longer than any in the text."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", text))])
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
