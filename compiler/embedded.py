"""The embedded base model as a Hugging Face folder, converted once from the GGUF of `dataset_builder.embedded`.

transformers reads the weights (Q4_1, so the folder holds what four bits left of SmolLM2-135M-Instruct, as BF16) and the
tokenizer. What it makes of the special tokens is put right here: it takes `<|im_start|>` for the end of a sequence and
knows no padding token, while the chat template ends every turn with `<|im_end|>`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from compiler.problems import WorldProblem
from compiler.write import write_text

FOLDER = Path(".cache/models/smollm2-135m-instruct")
RECORD = "prepared.json"
"""Written last: its presence, with the digest of the GGUF it came from, says that the folder is whole."""
BOS, EOS, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
"""Begin and end as in the model's own chat template. Padding is not the end token: labels of padding are masked, and
with one token for both the model would never be taught to stop. `<|endoftext|>` never occurs inside a chat."""


def prepared(folder: Path = FOLDER) -> bool:
    """Whether the folder is whole and comes from the GGUF that this version uses."""
    from dataset_builder.embedded import GGUF_SHA256

    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return False
    return record.get("gguf_sha256") == GGUF_SHA256 and (folder / "model.safetensors").is_file()


def prepare(folder: Path = FOLDER) -> Path:
    """Fetch the GGUF (93 MB, sha256 checked) and convert it, unless that was done before. Returns the folder.

    Raises WorldProblem where transformers is missing or the conversion fails, BuildProblem where the download does.
    """
    from dataset_builder.embedded import gguf_path

    if prepared(folder):
        return folder
    if folder.exists() and not (folder / RECORD).is_file() and any(folder.iterdir()):
        # Only what an earlier version of this function put there may be replaced.
        raise WorldProblem(f"{folder} holds something else than the embedded model", fix=f"move {folder} away")
    gguf = gguf_path()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as temporary:
        # A process of its own: torch and transformers are heavy, and print what this command's user need not read.
        command = [sys.executable, "-m", "compiler.embedded", str(gguf), temporary]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise WorldProblem(
                f"the embedded model could not be converted: {said[0]}",
                fix="pip install 'finetune-recipes[train,embedded]'",
            )
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        os.chmod(folder, 0o755)
        Path(temporary).mkdir()  # TemporaryDirectory removes what it made
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Write `gguf` as config.json, BF16 weights and a tokenizer into `folder`; heavy, for a child process."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from dataset_builder.embedded import GGUF_SHA256

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = BOS, EOS, PAD
    tokenizer.clean_up_tokenization_spaces = False  # it would strip blanks before punctuation, which code needs
    tokenizer.model_max_length = 8192
    if EOS not in tokenizer.chat_template:
        raise ValueError(f"the chat template does not end turns with {EOS}")
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model.config.update(ids)
    model.config._name_or_path = ""
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_text(folder / RECORD, json.dumps({"gguf_sha256": GGUF_SHA256, **ids}, indent=1) + "\n")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
