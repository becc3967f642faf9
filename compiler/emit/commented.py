"""YAML with the reason above each key: values go through PyYAML, comments are put between its lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

WIDTH = 118
"""Of comment lines, in characters."""


@dataclass(frozen=True, slots=True)
class Key:
    """One top-level key of a config, its value, and why it has that value."""

    name: str
    value: Any
    because: str
    inside: Mapping[str, str] = field(default_factory=dict)
    """Reasons of keys below this one, by their name, whatever their depth."""


@dataclass(frozen=True, slots=True)
class Section:
    """Keys that belong together, under a heading."""

    title: str
    keys: tuple[Key, ...]


def to_mapping(sections: Iterable[Section]) -> dict[str, Any]:
    """The config as a value, in the order of its keys. A key that stands twice is a bug of ours."""
    mapping: dict[str, Any] = {}
    for section in sections:
        for key in section.keys:
            assert key.name not in mapping, f"axolotl.yaml would have {key.name} twice"
            mapping[key.name] = key.value
    return mapping


def to_text(sections: Iterable[Section], header: str) -> str:
    """The file: header as a comment, then each section with a ruled heading. Reads back as `to_mapping` of the same."""
    lines = [("# " + line).rstrip() for line in header.splitlines()]
    for section in sections:
        if section.keys:
            lines += ["", f"# --- {section.title} ".ljust(WIDTH + 2, "-")]
        for key in section.keys:
            lines += comment(key.because)
            lines += _with_comments(dump({key.name: key.value}), key.inside)
    return "\n".join(lines) + "\n"


def dump(value: Any) -> str:
    """YAML of a value: block style, keys in their order, no line folding (a fold inside a token string would be
    unreadable)."""
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=False, width=2**20, allow_unicode=True)


def comment(text: str, indent: str = "") -> list[str]:
    """The text as comment lines; whatever line breaks it holds become blanks, so it cannot become YAML."""
    flat = " ".join(text.split())
    lines = textwrap.wrap(flat, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in lines]


def _with_comments(text: str, reasons: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for line in text.splitlines():
        stripped = line.lstrip(" -")
        name = stripped.partition(":")[0]
        if name in reasons and stripped != line:
            lines += comment(reasons[name], " " * (len(line) - len(line.lstrip())))
        lines.append(line)
    return lines
