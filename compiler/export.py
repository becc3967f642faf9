"""`recipe export`: the trained model merged, as GGUF, and as an Ollama model.

export(recipe, target) -> Exported      outputs/<recipe>/<target>/merged/ and .../export/
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from compiler.gguf_file import NATIVE_TYPES, write_gguf
from compiler.problems import WorldProblem
from compiler.recipe import Recipe
from compiler.values import Model

MERGED = "merged"
"""Folder below Axolotl's output_dir that `axolotl merge-lora` writes (axolotl 0.19, cli/merge_lora.py)."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was made; None where the recipe does not ask for it."""

    merged: Path
    gguf: Path | None
    modelfile: Path | None


def export(recipe: Recipe, target: str, root: Path = Path("."), tell=lambda line: None) -> Exported:
    """Merge, convert, quantise, describe. Raises WorldProblem with what is missing; finished files are made anew each
    time."""
    from compiler.base_model import find_model

    if target not in recipe.targets:
        raise WorldProblem(
            f"recipe `{recipe.name}` has no target `{target}`", f"name one of {', '.join(recipe.targets)}"
        )
    asked = recipe.export
    if asked.ollama and not asked.gguf:
        raise WorldProblem("export.ollama needs a GGUF file", "write `gguf: q8_0` beside it")
    output = root / "outputs" / recipe.name / target
    config = root / "generated" / recipe.name / target / "axolotl.yaml"
    merged = merge(config, output, root, tell)
    if not asked.gguf:
        return Exported(merged, None, None)
    gguf = output / "export" / f"{recipe.name}-{asked.gguf}.gguf"
    tell(f"{gguf}: converting")
    quantised(merged, gguf, asked.gguf, recipe.name)
    if not asked.ollama:
        return Exported(merged, gguf, None)
    from compiler.write import write_text

    path = output / "export" / "Modelfile"
    write_text(path, modelfile(gguf.name, find_model(recipe.base_model), _system(recipe)))
    return Exported(merged, gguf, path)


def _system(recipe: Recipe) -> str | None:
    return recipe.dataset.system_prompt if recipe.dataset else None


def merge(config: Path, output: Path, root: Path, tell=lambda line: None) -> Path:
    """The folder with whole weights: the output itself after full fine-tuning, else base and adapter merged on the
    CPU."""
    if not (output / "adapter_config.json").is_file():
        if (output / "config.json").is_file() and list(output.glob("model*.safetensors")):
            return output
        raise WorldProblem(f"{output} holds no trained model", f"axolotl train {config}")
    if not (output / "adapter_model.safetensors").is_file():
        raise WorldProblem(
            f"{output} holds an adapter's config but no weights: training did not end", f"axolotl train {config}"
        )
    if not config.is_file():
        raise WorldProblem(f"there is no {config}, which the merge reads", "recipe build")
    program = Path(sys.executable).parent / "axolotl"
    if not program.is_file():
        raise WorldProblem("axolotl is not installed beside this Python", "pip install 'finetune-recipes[train]'")
    tell(f"{output / MERGED}: merging on the CPU")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "AXOLOTL_DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [str(program), "merge-lora", str(config.resolve())], cwd=root, env=environment, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
    )  # fmt: skip
    merged = output / MERGED
    if done.returncode or not list(merged.glob("model*.safetensors")):
        said = [line for line in done.stdout.splitlines() if line.strip()][-3:]
        raise WorldProblem(
            "axolotl merge-lora failed: " + " / ".join(said), "run it by hand: axolotl merge-lora " + str(config)
        )
    _complete(merged, output)
    return merged


def _complete(merged: Path, output: Path) -> None:
    """The merge writes weights and config; the tokenizer as trained lies in the output folder."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (output / name).is_file() and not (merged / name).is_file():
            shutil.copyfile(output / name, merged / name)


def quantised(merged: Path, target: Path, file_type: str, name: str) -> None:
    """One GGUF file. K-quants go through llama.cpp's `llama-quantize`, which is found on PATH and is on no package
    index."""
    if file_type in NATIVE_TYPES:
        write_gguf(merged, target, file_type, name)
        return
    program = shutil.which("llama-quantize")
    if program is None:
        raise WorldProblem(
            f"`{file_type}` needs llama.cpp's `llama-quantize`, which is not on PATH",
            "install llama.cpp (`brew install llama.cpp`, or its release for your system), or write one of "
            + ", ".join(NATIVE_TYPES) + " under export.gguf",
        )  # fmt: skip
    whole, part = target.with_name(target.name + ".f16"), target.with_name(target.name + ".part")
    try:
        write_gguf(merged, whole, "f16", name)
        done = subprocess.run(
            [program, str(whole), str(part), file_type.upper()], capture_output=True, text=True, check=False
        )
        if done.returncode or not part.is_file():
            raise WorldProblem(f"llama-quantize failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
        os.replace(part, target)
    finally:
        whole.unlink(missing_ok=True)
        part.unlink(missing_ok=True)


TEMPLATES = {
    "<|im_end|>": (
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    ),
    "<end_of_turn>": (
        "{{- range .Messages }}<start_of_turn>{{ if eq .Role \"assistant\" }}model{{ else }}user{{ end }}\n"
        "{{ .Content }}<end_of_turn>\n{{ end }}<start_of_turn>model\n"
    ),
    "<|eot_id|>": (
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "<|end|>": "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
}  # fmt: skip
"""Token that ends a turn -> the chat template in Ollama's (Go's) language, which does not read Jinja."""


def modelfile(gguf: str, model: Model, system: str | None = None) -> str:
    """Ollama's Modelfile: the file, the template the model was trained with, and where it stops.

    Raises WorldProblem where the template cannot be said in Ollama's language here.
    """
    template = next((TEMPLATES[token] for token in model.end_of_turn if token in TEMPLATES), None)
    if template is None:
        raise WorldProblem(
            f"no Ollama template is known for {model.id}", "write export.ollama: false, and a Modelfile by hand"
        )
    default = _default_system(model)
    if default and not system:
        system = default
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{template}"""']
    lines += [f"PARAMETER stop {json.dumps(token, ensure_ascii=False)}" for token in model.end_of_turn]
    lines.append("PARAMETER temperature 0")
    if system:
        lines.append(f"SYSTEM {json.dumps(system, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _default_system(model: Model) -> str | None:
    """The system message that the model's own template adds when there is none, so that prompts equal those of
    training."""
    import re

    path = Path(model.path) / "chat_template.jinja"
    if not path.is_file():
        return None
    found = re.search(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", path.read_text(encoding="utf-8"), re.DOTALL)
    return found.group(1) if found and "{" not in found.group(1) else None
