"""`base_model:` -> Model: from the catalogue, a local folder, the Hugging Face cache or, when online, the hub.

Only `config.json` is needed to plan. What the hub answers is kept under `.cache/hub-config/`, so it is asked once.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.problems import WorldProblem
from compiler.values import Model

EMBEDDED = "embedded/smollm2-135m-instruct"
EMBEDDED_PATH = ".cache/models/smollm2-135m-instruct"
"""Where `recipe prepare` puts the converted folder, relative to the project root."""
HUB_CACHE = Path(".cache/hub-config")
HUB_TIMEOUT_S = 4.0
MAX_CONFIG_BYTES = 2**23
"""config.json is some kilobytes; a tokenizer_config.json with many added tokens may reach some megabytes."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
_TURN_ENDS = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "</s>")
"""How chat templates end a turn; the first that the model's own template writes is taken."""


def find_model(base_model: str) -> Model:
    """The model that a recipe names. Raises WorldProblem with what would mend it."""
    from compiler.architecture import UnsupportedArchitecture
    from compiler.facts import models

    if base_model in models():
        return _from_catalogue(base_model)
    folder = Path(os.path.expanduser(base_model))  # Path.expanduser fails on the name of no user
    if folder.is_dir():
        files = _read_folder(folder)
        if "config.json" not in files:
            raise WorldProblem(f"the folder `{base_model}` holds no config.json", "name the folder of a model")
        source = f"config.json in {base_model}"
    elif address := re.fullmatch(r"https?://[^/]+/([\w.-]+/[\w.-]+)(/.*)?", base_model):
        raise WorldProblem(f"`{base_model}` is an address, not a model's name", f"write `{address[1]}`")
    elif _looks_local(base_model):
        raise WorldProblem(f"there is no folder `{base_model}`", "name a folder that holds a config.json")
    elif not _HUB_ID.fullmatch(base_model) or ".." in base_model or base_model.startswith("embedded/"):
        raise WorldProblem(f"`{base_model}` is no model", _near(base_model) or "write a hub id such as `owner/name`")
    else:
        files, source = _cached_or_hub(base_model)
    try:
        return _from_files(base_model, files, source)
    except UnsupportedArchitecture as error:
        raise WorldProblem(f"`{base_model}` cannot be planned: {error}", _near(base_model) or SUPPORTED) from None


BESIDE = "take the file that lies beside the weights"
SUPPORTED = "`recipe explain models` lists models that can be"


def _from_catalogue(base_model: str) -> Model:
    from compiler.facts import models

    facts = models()[base_model]
    return Model(
        id=base_model,
        path=EMBEDDED_PATH if base_model == EMBEDDED else base_model,
        architecture=facts.architecture,
        licence=facts.licence,
        chat_template=facts.chat_template,
        end_of_turn=facts.end_of_turn,
        pad_token=facts.pad_token,
        source=facts.source,
    )


def _looks_local(base_model: str) -> bool:
    return base_model.startswith((".", "/", "~", "\\")) or base_model.count("/") > 1 or base_model.endswith("/")


def _near(base_model: str) -> str | None:
    from compiler.facts import models

    near = models().near(base_model)
    return f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else None


def _cached_or_hub(base_model: str) -> tuple[dict[str, Any], str]:
    kept = HUB_CACHE / base_model.replace("/", "--")
    if (kept / "config.json").is_file():
        return _read_folder(kept), f"https://huggingface.co/{base_model}"
    snapshot = _snapshot(base_model)
    if snapshot is not None:
        return _read_folder(snapshot), f"config.json in the Hugging Face cache, {snapshot.name[:12]}"
    _fetch(base_model, kept)
    return _read_folder(kept), f"https://huggingface.co/{base_model}"


def _snapshot(base_model: str) -> Path | None:
    """Folder of the model's main revision in the Hugging Face cache, where it holds a config.json."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    model = hub / f"models--{base_model.replace('/', '--')}"
    try:
        commit = (model / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    snapshot = model / "snapshots" / commit
    return snapshot if commit and (snapshot / "config.json").is_file() else None


def _fetch(base_model: str, kept: Path) -> None:
    """Ask the hub for the small files of a model and keep them; config.json last, since its presence means all are
    there."""
    from compiler.write import write_bytes

    near = _near(base_model) or SUPPORTED
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise WorldProblem(f"`{base_model}` is not in the catalogue and HF_HUB_OFFLINE forbids to ask the hub", near)
    config = _download(base_model, "config.json", near)
    if config is None:
        raise WorldProblem(f"the hub knows no `{base_model}` with a config.json", near)
    if not _is_object(config):
        raise WorldProblem(
            f"the hub's config.json of `{base_model}` is not JSON", "look whether a proxy answers for it"
        )
    for name in _FILES[1:]:
        data = _download(base_model, name, near)
        if data is not None and (not name.endswith(".json") or _is_object(data)):
            write_bytes(kept / name, data)
    write_bytes(kept / "config.json", config)


def _is_object(data: bytes) -> bool:
    """Whether some bytes are a JSON object; a proxy's log-in page is not kept as a model's file."""
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


def _download(base_model: str, name: str, near: str) -> bytes | None:
    """A file of a model's main revision; None where it has none of that name."""
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    request = urllib.request.Request(f"{endpoint}/{base_model}/resolve/main/{name}")
    if token := os.environ.get("HF_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # never to another host
    try:
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S) as reply:
            data = reply.read(MAX_CONFIG_BYTES + 1)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        if error.code in (401, 403):
            text = f"the hub does not show `{base_model}`: it is gated, private, or misspelled"
            raise WorldProblem(text, f"accept its terms and set HF_TOKEN, or: {near}") from None
        raise WorldProblem(f"the hub answered {error.code} for `{base_model}`", "try again later") from None
    except (OSError, ValueError):
        text = f"`{base_model}` is not in the catalogue, not on this disk, and the hub cannot be reached"
        raise WorldProblem(text, f"{near.rstrip('?')}, or name a folder that holds its config.json") from None
    return None if len(data) > MAX_CONFIG_BYTES else data


def _read_folder(folder: Path) -> dict[str, Any]:
    """The model's small files: parsed JSON, and the text of chat_template.jinja. Raises WorldProblem for broken
    ones."""
    found: dict[str, Any] = {}
    for name in _FILES:
        file = folder / name
        if not file.is_file():
            continue
        try:
            if file.stat().st_size > MAX_CONFIG_BYTES:
                raise WorldProblem(f"`{file}` is larger than {MAX_CONFIG_BYTES >> 20} MiB", BESIDE)
            text = file.read_bytes().decode()
            found[name] = json.loads(text) if name.endswith(".json") else text
        except OSError as error:
            raise WorldProblem(f"`{file}` cannot be read: {error.strerror}", BESIDE) from None
        except (ValueError, RecursionError) as error:
            why = "" if isinstance(error, RecursionError) else f": {error}"
            kind = "JSON in UTF-8" if name.endswith(".json") else "UTF-8"
            raise WorldProblem(f"`{file}` is not {kind}{why}", BESIDE) from None
        if name.endswith(".json") and not isinstance(found[name], dict):
            raise WorldProblem(f"`{file}` holds no JSON object", BESIDE)
    return found


def _from_files(base_model: str, files: Mapping[str, Any], source: str) -> Model:
    """A model of which only its own files are known; what they do not say stays unknown."""
    from compiler.architecture import from_config

    tokenizer = files.get("tokenizer_config.json", {})
    template = files.get("chat_template.jinja") or tokenizer.get("chat_template")
    text = template if isinstance(template, str) else json.dumps(template) if template else ""
    ends = [token for token in (*_TURN_ENDS, _token(tokenizer, "eos_token")) if token and token in text]
    return Model(
        id=base_model,
        path=base_model,
        architecture=from_config(files["config.json"]),
        licence=None,
        chat_template="tokenizer_default" if text else None,
        end_of_turn=tuple(ends[:1]) if ends else _eos_in_words(text, tokenizer),
        pad_token=_token(tokenizer, "pad_token"),
        source=source,
    )


def _eos_in_words(text: str, tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """Templates may write the variable `eos_token` instead of the token."""
    eos = _token(tokenizer, "eos_token")
    return (eos,) if eos and "eos_token" in text else ()


def _token(tokenizer: Mapping[str, Any], name: str) -> str | None:
    """A token is stored as a string or as an AddedToken object."""
    value = tokenizer.get(name)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None
