"""What a field, a device or a model is, as text: `recipe explain` and the reference page are made here."""

from collections.abc import Iterator

from compiler import fields
from compiler.problems import WorldProblem
from compiler.units import format_size
from compiler.values import Model

SECTIONS = ("gpus", "models")
"""Topics that list a catalogue."""


def explain(topic: str | None) -> str:
    """The text for one topic, or the list of all fields. Raises WorldProblem for a topic that is none."""
    if topic is None:
        return _overview()
    from compiler.facts import gpus, models

    word = topic.strip()
    if word == "gpus":
        return _gpu_list()
    if word == "models":
        return _model_list()
    if word in gpus():
        return _gpu(word)
    if word in models():
        return _model(word)
    found = [doc for doc in fields.all_fields() if _names(doc, word)]
    if found:
        return "\n\n".join(_field(doc) for doc in found)
    if "/" in word or word.startswith("."):
        return _model(word)
    raise WorldProblem(f"`{topic}` is no field, GPU or model", _near(word))


def _names(doc: fields.FieldDoc, word: str) -> bool:
    """A whole path, its last word, or its last words: `training.lora_r`, `lora_r`."""
    return doc.path == word or doc.path.endswith(f".{word}")


def _near(word: str) -> str:
    from difflib import get_close_matches

    from compiler.facts import gpus, models

    known = [*fields.homes(), *gpus(), *models(), *SECTIONS]
    near = get_close_matches(word.lower(), {entry.lower(): entry for entry in known}, 3, 0.5)
    listed = "`recipe explain` lists the fields, `recipe explain gpus` and `recipe explain models` the rest"
    return f"did you mean {' or '.join(f'`{entry}`' for entry in near)}? {listed}" if near else listed


def _overview() -> str:
    """Every field in the order of the file, each with the first sentence of what it means."""
    lines = ["Fields of a recipe (`recipe explain FIELD` tells more; `gpus` and `models` list what is known):", ""]
    for doc in fields.all_fields():
        depth = doc.path.replace(".<name>", "").count(".")
        name = "  " * depth + doc.path.rpartition(".")[2]
        sentence = doc.about.partition(". ")[0].rstrip(".")
        lines.append(f"  {name:32} {sentence}".rstrip())
    return "\n".join(lines)


def _field(doc: fields.FieldDoc) -> str:
    rows = [("", doc.about), ("takes", doc.expected), ("default", doc.default)]
    below = [other.path for other in fields.all_fields() if other.path.rpartition(".")[0] == doc.path]
    if below:
        rows.append(("fields", ", ".join(path.rpartition(".")[2] for path in below)))
    return "\n".join([doc.path, *_rows(rows)])


def _rows(rows: list[tuple[str, str | None]]) -> Iterator[str]:
    """Label and text in two columns; what is not known is left out."""
    from textwrap import fill

    for label, text in rows:
        if text:
            indent = "  " if not label else f"  {label:14}"
            yield fill(text, 110, initial_indent=indent, subsequent_indent=" " * len(indent), break_on_hyphens=False)


def _gpu_list() -> str:
    from compiler.facts import gpus

    lines = ["Devices (`recipe explain GPU` tells more; a card that is not here can be described in the recipe):", ""]
    for gpu in gpus().values():
        memory = f"{gpu.vram_gib:g} GiB" if gpu.vram_gib else "RAM"
        lines.append(f"  {gpu.id:20} {memory:>8}  {gpu.name}")
    return "\n".join(lines)


def _gpu(name: str) -> str:
    from compiler.facts import gpus

    gpu = gpus()[name]
    able = [word for word, has in (("BF16", gpu.bf16), ("FP16", gpu.fp16), ("TF32", gpu.tf32)) if has]
    rows: list[tuple[str, str | None]] = [
        ("", gpu.name),
        ("backend", f"{gpu.backend}{f', {gpu.capability}' if gpu.capability else ''}"),
        ("memory", f"{format_size(gpu.vram_bytes)} usable ({gpu.usable_how})" if gpu.vram_bytes else gpu.usable_how),
        ("trains in", ", ".join(able)),
        ("attention", "FlashAttention-2 runs" if gpu.flash_attention_2 else "no FlashAttention-2"),
        ("BF16", _number(gpu.bf16_tflops, "TFLOP/s, dense")),
        ("FP16", _number(gpu.fp16_tflops, "TFLOP/s, dense")),
        ("bandwidth", _number(gpu.bandwidth_gb_s, "GB/s")),
        ("to the host", _number(gpu.host_gb_s, "GB/s each way")),
        ("to another", _number(gpu.device_link_gb_s, f"GB/s each way{', direct' if gpu.peer_to_peer else ''}")),
        ("rent", _number(gpu.price_usd_per_hour, f"USD an hour ({gpu.price_source})")),
        *(("note", note) for note in gpu.notes),
        ("source", f"{gpu.source} ({gpu.as_of})"),
    ]
    return "\n".join([gpu.id, *_rows(rows)])


def _number(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:g} {unit}"


def _model_list() -> str:
    from compiler.facts import models

    lines = ["Models (any other dense decoder works by hub id or folder; `recipe explain MODEL` tells more):", ""]
    for model in models().values():
        gated = "  gated" if model.gated else ""
        lines.append(f"  {model.id:42} {_billions(model.parameters):>7}  {model.licence}{gated}")
    return "\n".join(lines)


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def _model(name: str) -> str:
    from compiler.base_model import find_model
    from compiler.facts import models

    model: Model = find_model(name)
    shape = model.architecture
    facts = models().get(name)
    notes = facts.notes if facts else ()
    gated = "the hub asks for a log-in and an agreement" if facts and facts.gated else None
    rows: list[tuple[str, str | None]] = [
        ("parameters", f"{shape.parameters.total:,} ({_billions(shape.parameters.total)}), {shape.model_type}"),
        ("layers", f"{shape.num_layers} of width {shape.hidden_size}, MLP {shape.intermediate_size}"),
        ("attention", f"{shape.num_heads} heads of {shape.head_dim}, {shape.num_kv_heads} for keys and values"),
        ("vocabulary", f"{shape.vocab_size:,}{', input and output tied' if shape.tie_word_embeddings else ''}"),
        ("context", f"{shape.max_position_embeddings:,} tokens"),
        ("LoRA modules", ", ".join(linear.name for linear in shape.linears)),
        ("licence", model.licence or "not known"),
        ("access", gated),
        ("chat template", model.chat_template or "none known"),
        ("turn ends by", ", ".join(model.end_of_turn) or None),
        *(("note", note) for note in notes),
        ("source", model.source),
    ]
    return "\n".join([model.id, *_rows(rows)])


def reference() -> str:
    """docs/recipe.md: every field, from the strings below the fields themselves."""
    docs = [doc for doc in fields.all_fields() if not doc.path.startswith("dataset.judge.")]
    about = {doc.path: doc.about for doc in docs}
    places = dict.fromkeys(doc.path.rpartition(".")[0] for doc in docs)
    sections = [
        _section(place, about, [doc for doc in docs if doc.path.rpartition(".")[0] == place]) for place in places
    ]
    return "\n\n".join([_REFERENCE_HEAD, *sections]) + "\n"


_REFERENCE_HEAD = """# The recipe, field by field

Made by `recipe explain --markdown` from the code; a test keeps it fresh. `<name>` is a name of your own. Sizes are
written `8 GiB` (2^30 bytes), `8GB` (10^9) or `8192 MiB`; a bare number is refused. `auto` means that the planner
decides, and plan.md says why; everything else is taken as it is. `dataset.judge` has the fields of
`dataset.generator`."""


def _section(place: str, about: dict[str, str], docs: list[fields.FieldDoc]) -> str:
    heading = place.replace("[kind=", ", kind: ").replace("]", "") or "Top level"
    lines = [f"## {heading}", ""]
    if about.get(place):
        lines += [about[place], ""]
    lines += ["| field | takes | omitted means | what it is |", "|---|---|---|---|"]
    for doc in docs:
        cells = (f"`{doc.path.rpartition('.')[2]}`", doc.expected, doc.default, doc.about)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
