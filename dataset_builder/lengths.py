"""How long rows are in tokens, with the base model's own tokenizer and chat template where they lie on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_builder.rows import Row

Count = Callable[[str], int]
"""`messages` JSON -> tokens of the rendered conversation."""

TEMPLATE_TOKENS = 5
"""A message costs about so many tokens for its role and its end, where the template itself is unknown."""
BOUNDS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384, 32768)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens a row, over a table."""

    mean: float
    p99: int
    longest: int
    histogram: tuple[tuple[int, int], ...]
    """(upper bound in tokens, rows) ascending; every row is in exactly one."""
    how: str
    """What counted: the model's own tokenizer, or characters / 4."""


def lengths(rows: Sequence[Row], tokenizer: Path | None) -> Lengths:
    """Token lengths of the rendered conversations. `tokenizer`: folder of the base model; None: estimated."""
    exact = tokenizer_count(tokenizer) if tokenizer else None
    how = "counted with the base model's own tokenizer and chat template" if exact else "estimated: characters / 4"
    count = exact or estimate_count
    sizes = sorted(count(row.messages) for row in rows)
    if not sizes:
        return Lengths(0.0, 0, 0, (), how)
    bounds = [*BOUNDS, sizes[-1]] if sizes[-1] > BOUNDS[-1] else BOUNDS
    histogram, below = [], 0
    for bound in bounds:
        upto = sum(1 for size in sizes if size <= bound)
        if upto > below:
            histogram.append((bound, upto - below))
        below = upto
    p99 = sizes[-(-len(sizes) * 99 // 100) - 1]
    return Lengths(round(sum(sizes) / len(sizes), 1), p99, sizes[-1], tuple(histogram), how)


def estimate_count(messages: str) -> int:
    """Characters / 4 and a few tokens a message for the chat template: near for English, low for code."""
    return sum(-(-len(turn["content"]) // 4) + TEMPLATE_TOKENS for turn in json.loads(messages))


def tokenizer_count(folder: Path) -> Count | None:
    """Counts with `tokenizer.json` and the chat template of a model folder.

    None where the folder holds no tokenizer, or the package `tokenizers` is not installed.
    """
    if not (folder / "tokenizer.json").is_file():
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    render = _template(folder)

    def count(messages: str) -> int:
        turns = json.loads(messages)
        if render is not None:
            return len(tokenizer.encode(render(turns), add_special_tokens=False).ids)
        texts = (tokenizer.encode(turn["content"], add_special_tokens=False).ids for turn in turns)
        return sum(len(ids) + TEMPLATE_TOKENS for ids in texts)

    return count


def _template(folder: Path) -> Callable[[list[dict]], str] | None:
    """The chat template as a function, in jinja's sandbox: it is a program out of a model folder."""
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        return None
    settings, beside = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    config = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    source = beside.read_text(encoding="utf-8") if beside.is_file() else config.get("chat_template")
    if not isinstance(source, str):
        return None
    names = {key: _content(config.get(key)) for key in ("bos_token", "eos_token", "pad_token")}
    loops = ["jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=loops)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = refuse
    try:
        template = environment.from_string(source)
        template.render(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], **names)
    except TemplateError:
        return None
    return lambda turns: template.render(messages=turns, add_generation_prompt=False, **names)


def _content(token: object) -> str:
    return token.get("content", "") if isinstance(token, dict) else token or ""
