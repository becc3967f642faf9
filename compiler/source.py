"""YAML text -> Source: plain values, and the line and column of every key and value.

Stricter than YAML: one document, a mapping at the top, no tags, no duplicate keys, at most 1 MiB and 20,000 values
after aliases are followed. Scalars are read by the YAML 1.2 core schema (yaml.org/spec/1.2.2, section 10.3), not by
PyYAML's 1.1 rules: `on`, `off`, `yes` and `no` are words, `1e-4` is a number, `12:30` is not 750.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from compiler.problems import Problem, RecipeProblems
from compiler.quick import dataclass

MAX_BYTES = 2**20
MAX_VALUES = 20_000
"""Far above any recipe; keeps nine lines of nested aliases ("billion laughs") from filling the memory."""
MAX_DEPTH = 50

KeyPath = tuple[str | int, ...]
"""Where a value lies: keys and list indices from the top, such as ("dataset", "sources", 0, "url")."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML 1.2 calls c-printable, turned round."""
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True, slots=True)
class Source:
    """A recipe as it was typed."""

    file: str
    lines: tuple[str, ...]
    value: dict[str, Any]
    key_marks: dict[KeyPath, tuple[int, int]]
    """(line, column), both from 1, of the key that leads to each value of a mapping."""
    value_marks: dict[KeyPath, tuple[int, int]]
    problems: tuple[Problem, ...] = ()
    """What is wrong with the text though it could be read: duplicate keys, tags, numbers that are none."""

    def problem(self, path: KeyPath, message: str, fix: str, at_key: bool = False) -> Problem:
        """A problem at the value (or the key) of `path`, or at the nearest thing around it that the text holds."""
        path = tuple(path)
        while path and path not in self.value_marks:
            path, at_key = path[:-1], True
        marks = self.key_marks if at_key and path in self.key_marks else self.value_marks
        return place(self.lines, self.file, marks.get(path, (1, 1)), message, fix)


def place(lines: tuple[str, ...], file: str, mark: tuple[int, int], message: str, fix: str) -> Problem:
    """A problem at (line, column), moved into the text where the mark lies behind its end."""
    line = min(max(mark[0], 1), max(len(lines), 1))
    text = lines[line - 1] if lines else ""
    return Problem(message, fix, file, line, min(max(mark[1], 1), len(text) + 1), text)


def read_source(path: str | Path) -> Source:
    """Read and parse a file. Raises RecipeProblems."""
    file = str(path)
    if not Path(path).is_file():
        what = "is a folder, not a recipe" if Path(path).is_dir() else "no such recipe"
        raise RecipeProblems([Problem(what, near_recipes(path), file)])
    with open(path, "rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise RecipeProblems([Problem("the file is larger than 1 MiB", "name a recipe, which is a page of YAML", file)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = tuple(_LINE_END.split(data[: error.start].decode("utf-8-sig", "replace")))
        lines = tuple(_LINE_END.split(data.decode("utf-8-sig", "replace")))
        mark = (len(before), len(before[-1]) + 1)
        raise RecipeProblems([place(lines, file, mark, "the file is not UTF-8", "save it as UTF-8")]) from None
    return parse_source(text, file)


def near_recipes(path: str | Path) -> str:
    """What the user may have meant by a path that is no recipe."""
    folder = Path(path) if Path(path).is_dir() else Path("recipes")
    found = sorted(str(recipe) for recipe in folder.glob("*.yaml"))
    if not found:
        return "write one with `recipe init NAME`"
    from difflib import get_close_matches

    close = get_close_matches(str(path), found, 1, 0.6) or get_close_matches(f"recipes/{path}.yaml", found, 1, 0.6)
    return f"did you mean {close[0]}?" if close else "name one of " + ", ".join(found[:10])


def parse_source(text: str, file: str = "recipe.yaml") -> Source:
    """Parse text. Raises RecipeProblems where no mapping can be had from it; lesser problems are in the result."""
    return _Reader(text, file).read()


class _Reader:
    """One pass over the parser's events; recursion is as deep as the text nests, which MAX_DEPTH bounds."""

    def __init__(self, text: str, file: str):
        self.text, self.file = text, file
        self.lines = tuple(_LINE_END.split(text))
        self.key_marks: dict[KeyPath, tuple[int, int]] = {}
        self.value_marks: dict[KeyPath, tuple[int, int]] = {}
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.problems: list[Problem] = []
        self.num_values = 0

    def read(self) -> Source:
        bad = _UNPRINTABLE.search(self.text)
        if bad is not None:
            before = _LINE_END.split(self.text[: bad.start()])
            mark = (len(before), len(before[-1]) + 1)
            self.give_up(mark, f"the character U+{ord(bad.group()):04X} cannot stand in YAML", "delete it")
        try:
            value = self.document(yaml.parse(self.text, Loader=_Loader))
        except yaml.MarkedYAMLError as error:
            self.syntax_error(error)
        return Source(self.file, self.lines, value, self.key_marks, self.value_marks, tuple(self.problems))

    def document(self, events: Iterator[Any]) -> dict[str, Any]:
        next(events)  # stream start
        if isinstance(next(events), yaml.StreamEndEvent):
            self.give_up((1, 1), "the recipe is empty", "`recipe init NAME` writes one to start from")
        first = next(events)
        value = self.value(first, events, ())
        next(events)  # document end
        following = next(events)
        if not isinstance(following, yaml.StreamEndEvent):
            self.give_up(_mark(following), "a second document begins here", "keep one recipe in a file")
        if value is None:
            self.give_up((1, 1), "the recipe is empty", "`recipe init NAME` writes one to start from")
        if not isinstance(value, dict):
            self.give_up(_mark(first), "a recipe is a mapping of keys to values", "begin with `name: my-expert`")
        return value

    def value(self, event: Any, events: Iterator[Any], path: KeyPath) -> Any:
        """The value that begins with `event`; takes its further events."""
        self.value_marks[path] = mark = _mark(event)
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            self.give_up(mark, f"the recipe holds more than {MAX_VALUES:,} values", "write fewer, or fewer aliases")
        if len(path) > MAX_DEPTH:
            self.give_up(mark, f"this is nested deeper than {MAX_DEPTH} levels", "a recipe needs five")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, mark)
        if event.tag is not None:
            tag = _short(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self.note(mark, f"`{tag}` is a YAML tag; recipes have none", "delete it")
        before = self.num_values - 1
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event, mark)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(events, path)
        else:
            value = self.mapping(events, path)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, self.num_values - before)
        return value

    def alias(self, event: Any, mark: tuple[int, int]) -> Any:
        if event.anchor not in self.anchors:
            name = _short(event.anchor)
            self.give_up(mark, f"`*{name}` names no anchor above it", f"write the value out, or `&{name}` before it")
        value, num_values = self.anchors[event.anchor]
        self.num_values += num_values
        if self.num_values > MAX_VALUES:
            self.give_up(mark, f"aliases make this more than {MAX_VALUES:,} values", "write the values out")
        return value

    def sequence(self, events: Iterator[Any], path: KeyPath) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            values.append(self.value(event, events, (*path, len(values))))
        return values

    def mapping(self, events: Iterator[Any], path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            mark = _mark(event)
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
                self.give_up(mark, "a key must be a plain word", "write `key: value`")
            key = event.value
            if key == "<<":
                self.note(mark, "merge keys (`<<`) are not read", "write the keys out")
            key_path = (*path, key)
            if key in values:
                first = self.key_marks[key_path][0]
                self.note(mark, f"`{_short(key)}` stands here twice, first in line {first}", "delete one of them")
                key_path = (*path, f"{key} ")  # the first one keeps its place
            self.key_marks[key_path] = mark
            value = self.value(next(events), events, key_path)
            if key != "<<":
                values.setdefault(key, value)
        return values

    def scalar(self, event: Any, mark: tuple[int, int]) -> Any:
        text = event.value
        if not event.implicit[0]:  # quoted, a block, or tagged
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        number: int | float | None = None
        if len(text) <= 40 and _INT.fullmatch(text):
            number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        elif _FLOAT.fullmatch(text):
            number = float(text)
        if _NOT_FINITE.fullmatch(text) or (number is not None and abs(number) > 1e300):
            self.note(mark, f"`{_short(text)}` is not a finite number", "write one")
            return None
        return text if number is None else number

    def note(self, mark: tuple[int, int], message: str, fix: str) -> None:
        self.problems.append(place(self.lines, self.file, mark, message, fix))

    def give_up(self, mark: tuple[int, int], message: str, fix: str) -> NoReturn:
        self.note(mark, message, fix)
        raise RecipeProblems(self.problems)

    def syntax_error(self, error: yaml.MarkedYAMLError) -> NoReturn:
        """The parser's own words, but for what trips people most."""
        at = error.problem_mark or error.context_mark
        if at and error.context_mark and not "".join(self.lines[at.line :])[at.column :].strip():
            at = error.context_mark  # the text ended inside a bracket or quote: show where it was opened
        mark = (at.line + 1, at.column + 1) if at else (1, 1)
        text = self.lines[min(mark[0], len(self.lines)) - 1]
        if "\t" in text[: len(text) - len(text.lstrip())] or text[mark[1] - 1 : mark[1]] == "\t":
            column = text.index("\t") + 1
            self.give_up((mark[0], column), "a tab; YAML is indented with spaces", "replace the tab by spaces")
        if text.startswith("%"):
            self.give_up((mark[0], 1), "a YAML directive; recipes have none", "delete the line")
        if text[mark[1] - 1 : mark[1]] in ("@", "`", "%"):
            self.give_up(mark, f"a value cannot begin with `{text[mark[1] - 1]}`", "put the value in quotes")
        if "mapping values are not allowed" in (error.problem or ""):
            fix = "indent the line as its neighbours, or put a value that holds `: ` in quotes"
            self.give_up(mark, "a second `:` in a value, or a line indented too far", fix)
        what = " ".join(part for part in (error.context, error.problem) if part)
        fix = "close every bracket and quote, and indent the keys of one mapping alike"
        self.give_up(mark, f"this is not YAML: {_short(what, 200)}", fix)


def _mark(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _short(text: str, most: int = 60) -> str:
    """One printable line of some text that a stranger wrote."""
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= most else text[: most - 1] + "…"
