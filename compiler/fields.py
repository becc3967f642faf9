"""What the recipe's fields are: a view of its JSON Schema that `check`, `explain` and docs/recipe.md share."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel

from compiler.recipe import Recipe

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class FieldDoc:
    """One field as `explain` and the reference print it."""

    path: str
    """Dotted, `<name>` for a name of the user's own and `[]` for an entry of a list: `targets.<name>.gpu`."""
    expected: str
    default: str
    """`required`, or the value that omission means."""
    about: str


@cache
def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe."""
    schema = Recipe.model_json_schema()
    for model in _models(Recipe):
        node = schema if model is Recipe else schema["$defs"][model.__name__]
        for name, text in docstrings(model).items():
            node["properties"][name].setdefault("description", text)
    return {"$schema": SCHEMA_ID, **_without_titles(schema)}


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field of a model."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0].body
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def _models(annotation: Any) -> dict[type[BaseModel], None]:
    """The models that a type is made of, in their order, each once."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return {model: None for part in get_args(annotation) for model in _models(part)}
    found = {annotation: None}
    for field in annotation.model_fields.values():
        found |= _models(field.annotation)
    return found


def _without_titles(node: Any, named: bool = False) -> Any:
    """pydantic titles every field with its own name in capitals, which tells an editor's user nothing."""
    if isinstance(node, list):
        return [_without_titles(entry) for entry in node]
    if not isinstance(node, dict):
        return " ".join(node.split()) if isinstance(node, str) and "\n" in node else node
    data = ("default", "const", "enum", "pattern")
    return {
        key: value if key in data else _without_titles(value, named=key in ("properties", "$defs"))
        for key, value in node.items()
        if named or key != "title"
    }


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """A schema node with its `$ref` followed; what stands beside the `$ref` wins."""
    while "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        node = {**json_schema()["$defs"][node["$ref"].rsplit("/", 1)[1]], **rest}
    return node


def branches(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a node, itself where it has none."""
    found = []
    for branch in node.get("anyOf") or node.get("oneOf") or []:
        found += branches(resolve(branch))
    return found or [node]


def child(node: dict[str, Any], piece: str | int) -> dict[str, Any]:
    """The schema of a key or list entry below a node; {} where the node knows none."""
    for branch in branches(node):
        if isinstance(piece, int):
            found = branch.get("items")
        elif piece in branch.get("properties", {}):
            found = branch["properties"][piece]
        else:
            found = next(iter(branch.get("patternProperties", {}).values()), None) or branch.get("additionalProperties")
        if isinstance(found, dict):
            return resolve(found)
    return {}


def at(path: tuple[str | int, ...], value: Any = None) -> dict[str, Any]:
    """The schema of `path`, {} where a recipe has no such place. `value` is the recipe: its `kind`s pick the branch."""
    node = resolve(json_schema())
    for piece in path:
        node = child(node, piece)
        value = _inside(value, piece)
        if "discriminator" in node and isinstance(value, dict):
            chosen = node["discriminator"]["mapping"].get(str(value.get("kind")))
            node = resolve({"$ref": chosen}) if chosen else node
    return node


def _inside(value: Any, piece: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(piece)
    return value[piece] if isinstance(value, list) and isinstance(piece, int) and piece < len(value) else None


def names(node: dict[str, Any]) -> list[str]:
    """The keys that a mapping at this node may have."""
    return [name for branch in branches(node) for name in branch.get("properties", {})]


def literals(node: dict[str, Any]) -> list[Any]:
    """The fixed values that a node allows, such as `auto`."""
    fixed = [branch.get("enum", [branch["const"]] if "const" in branch else []) for branch in branches(node)]
    return [value for values in fixed for value in values]


def expected(node: dict[str, Any]) -> str:
    """What a field takes, in words; "" where the schema says nothing.

    >>> expected(at(("training", "warmup")))
    '`auto`, a whole number of at least 0, or a number of at least 0 and below 1'
    """
    words = [f"`{_yaml(value)}`" for value in literals(node)]
    shared = {key: node[key] for key in ("examples",) if key in node}
    words += [text for branch in branches(node) if (text := _expected_type(shared | branch))]
    words = list(dict.fromkeys(words))
    if len(words) < 3:
        return " or ".join(words)
    return ", ".join(words[:-1]) + f", or {words[-1]}"


def _expected_type(branch: dict[str, Any]) -> str:
    kind = branch.get("type")
    if "const" in branch or "enum" in branch or kind in (None, "null"):
        return ""
    if kind in ("integer", "number"):
        bounds = (
            ("minimum", "of at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        limits = [f"{word} {_number(branch[key])}" for key, word in bounds if key in branch]
        return " ".join(["a whole number" if kind == "integer" else "a number", " and ".join(limits)]).strip()
    if kind == "string" and "examples" in branch:
        what = "a size" if branch.get("format") == "size" else "a word"
        return f"{what} such as `{branch['examples'][0]}`"
    fixed = {"boolean": "`true` or `false`", "string": "a text", "object": "a mapping"}
    return fixed[kind] if kind in fixed else f"a list of {_plural(branch.get('items', {}))}"


def _number(value: float) -> str:
    return f"{value:g}" if value < 10**5 else f"{value:.0f}"


def _plural(items: dict[str, Any]) -> str:
    return {"string": "texts", "integer": "whole numbers"}.get(items.get("type", ""), "mappings")


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value)


@cache
def homes() -> dict[str, tuple[str, ...]]:
    """Field name -> the places that know it, dotted: `lora_r` -> (`training`,)."""
    found: dict[str, tuple[str, ...]] = {}
    for doc in all_fields():
        place, _, name = doc.path.rpartition(".")
        found[name] = (*found.get(name, ()), place)
    return found


@cache
def all_fields() -> tuple[FieldDoc, ...]:
    """Every field of a recipe, in the order of the file."""
    return tuple(_walk(resolve(json_schema()), ""))


def _walk(node: dict[str, Any], prefix: str) -> Iterator[FieldDoc]:
    for branch in branches(node):
        needed = branch.get("required", [])
        for name, raw in branch.get("properties", {}).items():
            below = resolve(raw)
            path = f"{prefix}.{name}".removeprefix(".")
            default = "required" if name in needed else _default(raw)
            yield FieldDoc(path, expected(below), default, " ".join(raw.get("description", "").split()))
            yield from _below(below, path)


def _below(node: dict[str, Any], path: str) -> Iterator[FieldDoc]:
    """Fields of a mapping, of the entries of a list, of a mapping by the user's own names."""
    for branch in branches(node):
        if isinstance(branch.get("items"), dict):
            entry = resolve(branch["items"])
            for kind, reference in entry.get("discriminator", {}).get("mapping", {}).items():
                yield from _walk(resolve({"$ref": reference}), f"{path}[kind={kind}]")
        named = next(iter(branch.get("patternProperties", {}).values()), None) or branch.get("additionalProperties")
        if isinstance(named, dict) and "$ref" in named:
            yield from _walk(resolve(named), f"{path}.<name>")
        elif "properties" in branch:
            yield from _walk(branch, path)


def _default(raw: dict[str, Any]) -> str:
    value = raw.get("default")
    if isinstance(value, dict):
        return "its fields' defaults" if value else "none"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(entry) for entry in value) + "]"
    return _yaml(value)
