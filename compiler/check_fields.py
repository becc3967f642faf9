"""Single fields: what pydantic found wrong, said with its place, what is expected and how to mend it."""

from typing import Any

from pydantic import ValidationError

from compiler import fields
from compiler.axolotl_keys import STATED_AS, axolotl_keys
from compiler.check_types import close, shown
from compiler.problems import Problem
from compiler.source import KeyPath, Source

SYNONYMS = {
    "per_device_train_batch_size": "micro_batch",
    "lr": "learning_rate",
    "max_seq_length": "sequence_len",
    "max_length": "sequence_len",
    "context_length": "sequence_len",
    "quantization": "method",
    "quantisation": "method",
    "scheduler": "lr_scheduler",
    "lora_rank": "lora_r",
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "target_modules": "lora_targets",
    "dropout": "lora_dropout",
    "zero": "zero_stage",
    "fsdp_version": "fsdp",
    "fsdp_config": "fsdp",
    "packing": "sample_packing",
    "loss": "cross_entropy",
    "report_to": "logging",
    "patience": "early_stopping",
    "model": "base_model",
    "vram": "vram_budget",
    "memory": "vram_budget",
    "ram": "ram_budget",
    "device": "gpu",
    "num_gpus": "count",
    "gpus": "count",
    "hardware": "targets",
    "target": "targets",
    "data": "dataset",
    "llm": "generator",
}
"""Words of other tools for our fields; Axolotl's own are `STATED_AS`."""

NAME_FIX = "names become folders: letters, digits, `.`, `_` and `-`, at most 64, the first a letter or a digit"
_NOT_THIS_SHAPE = {"string_type", "literal_error", "int_type", "float_type", "bool_type", "too_short"}


def field_problems(source: Source, error: ValidationError) -> list[Problem]:
    """One problem a place. What pydantic says of each branch of a union is one problem, not several."""
    places: dict[tuple[KeyPath, str], list[dict[str, Any]]] = {}
    for found in error.errors(include_url=False, include_input=False):
        path, rest = _walk(source.value, found["loc"])
        last = str(rest[-1]) if rest else ""
        detail = last if found["type"] == "missing" or last == "[key]" else ""
        places.setdefault((path, detail), []).append(found)
    return [
        _problem(source, path, detail, found)
        for (path, detail), found in places.items()
        if not _said_deeper(source, path, detail, found, places)
    ]


def _said_deeper(source: Source, path: KeyPath, detail: str, found: list[dict[str, Any]], places: Any) -> bool:
    """Whether these are only the branches of a union that was not meant: `gpu: {...}` is no text, but may be a card."""
    value = _value(source, path)
    if value is None and source.value_marks.get(path) in {(one.line, one.column) for one in source.problems}:
        return True  # a number that is none was read as nothing
    if detail or not isinstance(value, dict | list):
        return False
    others = [(other, kind) for other, kind in places if (other, kind) != (path, detail)]
    inside = any(other[: len(path)] == path for other, _ in others)
    return inside and all(entry["type"] in _NOT_THIS_SHAPE for entry in found)


def faulty_paths(value: Any, error: ValidationError) -> set[KeyPath]:
    """What must go from a recipe's value to make it valid: the faulty values, and mappings that lack a key."""
    return {path for found in error.errors(include_url=False) if (path := _walk(value, found["loc"])[0])}


def _walk(value: Any, loc: tuple[Any, ...]) -> tuple[KeyPath, list[Any]]:
    """Where in a value `loc` leads, and its last pieces that are not there: union branches, a missing key."""
    node: Any = value
    path: KeyPath = ()
    rest: list[Any] = []
    for piece in loc:
        if (isinstance(node, dict) and piece in node) or (
            isinstance(node, list) and isinstance(piece, int) and piece < len(node)
        ):
            node, path, rest = node[piece], (*path, piece), []
        else:
            rest.append(piece)
    return path, rest


def _value(source: Source, path: KeyPath) -> Any:
    node: Any = source.value
    for piece in path:
        node = node[piece]
    return node


def _problem(source: Source, path: KeyPath, detail: str, found: list[dict[str, Any]]) -> Problem:
    kind, value = found[0]["type"], _value(source, path)
    if kind == "extra_forbidden":
        return source.problem(path, *unknown_key(source, path), at_key=True)
    if kind == "missing":
        return _missing(source, path, detail)
    if detail == "[key]":
        return source.problem(path, f"`{shown(path[-1])}` cannot be a name", NAME_FIX, at_key=True)
    if kind.startswith("union_tag") or kind == "model_attributes_type":
        return _kind_of_source(source, path, value)
    schema = fields.at(path, source.value)
    if value is None:
        return source.problem(path, f"nothing stands after `{dotted(path)}`", _null_fix(schema), at_key=True)
    own = [entry["msg"] for entry in found if entry["type"] == "value_error"]
    message, _, fix = (own[0] if own else "").removeprefix("Value error, ").partition("; ")
    if own and isinstance(value, dict) and fields.names(schema):
        return source.problem(path, message, fix)  # its keys are sound one by one, and cannot be together
    if own and not isinstance(value, dict | list):
        return source.problem(path, f"`{dotted(path)}`: {message}", fix or "write one such as `8 GiB`")
    expected = fields.expected(schema) or found[0]["msg"]
    return source.problem(path, f"`{dotted(path)}` cannot be {_in_words(value)}", _mend(value, schema, expected))


def _missing(source: Source, path: KeyPath, name: str) -> Problem:
    schema = fields.at((*path, name), source.value)
    about = " ".join(schema.get("description", "").split()).split(". ")[0].rstrip(".")
    fix = f"add `{name}:` with {fields.expected(schema) or 'a value'}" + (f". {about}" if about else "")
    inside = f" in `{dotted(path)}`" if path else ""
    return source.problem(path, f"`{name}` is missing{inside}", fix, at_key=True)


def _kind_of_source(source: Source, path: KeyPath, value: Any) -> Problem:
    kinds = list(fields.at(path).get("discriminator", {}).get("mapping", {}))
    listed = ", ".join(f"`{kind}`" for kind in kinds)
    if not isinstance(value, dict):
        text = f"`{dotted(path)}` cannot be {_in_words(value)}"
        return source.problem(path, text, f"write a mapping with `kind:` and one of {listed}")
    if value.get("kind") is None:
        return source.problem(path, f"`{dotted(path)}` has no `kind`", f"add `kind:` with one of {listed}")
    kind = str(value["kind"])
    near = close(kind, kinds)
    fix = f"did you mean `{near}`?" if near else f"write one of {listed}"
    return source.problem((*path, "kind"), f"`{shown(kind)}` is no kind of source", fix)


def unknown_key(source: Source, path: KeyPath) -> tuple[str, str]:
    """(message, fix) for a key that stands where it is none."""
    key, parent = str(path[-1]), path[:-1]
    known = fields.names(fields.at(parent, source.value))
    plain = key.strip().lower().replace("-", "_").replace(" ", "_")
    message = f"unknown key `{shown(key)}`" + (f" in `{dotted(parent)}`" if parent else "")
    meanings = [plain, SYNONYMS.get(plain, ""), STATED_AS.get(plain, "").rpartition(".")[2]]
    for name in meanings:
        if name in known:
            return message, f"write `{name}`"
    kinds = [home.partition("kind=")[2].rstrip("]") for home in fields.homes().get(plain, ()) if "kind=" in home]
    if parent[:2] == ("dataset", "sources") and kinds:
        return message, f"only a source of {' or '.join(f'`kind: {kind}`' for kind in kinds)} has it"
    for name in meanings:
        if name in fields.homes():
            return message, f"it belongs under {_homes(name)}" + ("" if name == key else f" as `{name}`")
    if parent in ((), ("training",)) and plain in axolotl_keys():
        return message, "it is a key of Axolotl: put it under `axolotl:` at the top level"
    near = close(plain, known)
    if near:
        return message, f"did you mean `{near}`?"
    near = close(plain, [*fields.homes()], 0.8)
    if near:
        return message, f"did you mean `{near}` under {_homes(near)}?"
    return message, f"delete it; known here: {', '.join(known)}"


def _homes(name: str) -> str:
    places = dict.fromkeys(place.partition("[")[0] for place in fields.homes()[name])
    return " or ".join(f"`{place}:`" if place else "the top level" for place in places)


def _null_fix(schema: dict[str, Any]) -> str:
    if fields.names(schema):
        return "write its keys below it, indented, or delete the line"
    return f"write {fields.expected(schema) or 'a value'}, or delete the line"


def _mend(value: Any, schema: dict[str, Any], expected: str) -> str:
    """The likeliest thing that was meant, before the general rule."""
    allowed = fields.literals(schema)
    if isinstance(value, str) and value and "intel-arc-expert" in schema.get("examples", ()):
        return NAME_FIX
    kinds = {branch.get("type") for branch in fields.branches(schema)}
    if isinstance(value, bool) and "on" in allowed:
        return f"write `{'on' if value else 'off'}`"
    if isinstance(value, str) and "boolean" in kinds and value.lower() in ("yes", "no", "on", "off", "true", "false"):
        return f"write `{'true' if value.lower() in ('yes', 'on', 'true') else 'false'}`"
    if isinstance(value, str) and kinds & {"integer", "number"}:
        plain = value.replace("_", "").replace(",", "").strip()
        if plain.replace(".", "", 1).isdigit():
            return f"write the number {plain}, without quotes, `_` or `,`"
    if "array" in kinds and isinstance(value, str) and not close(value, allowed):
        return (
            f"write a list, such as [{shown(value)}]" if not allowed else f"write {expected}, such as [{shown(value)}]"
        )
    near = close(str(value), [str(entry) for entry in allowed]) if isinstance(value, str) else None
    return f"did you mean `{near}`?" if near else f"write {expected}"


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict | list):
        return ("a mapping" if isinstance(value, dict) else "a list") if value else "empty"
    return f"`{shown(value)}`" if not isinstance(value, str) else (f"the text `{shown(value)}`" if value else "empty")


def dotted(path: KeyPath) -> str:
    """A path as people write it.

    >>> dotted(("dataset", "sources", 0, "url"))
    'dataset.sources[0].url'
    """
    text = "".join(f"[{piece}]" if isinstance(piece, int) else f".{shown(piece)}" for piece in path)
    return text.removeprefix(".") or "the recipe"
