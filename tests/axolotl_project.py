"""A throw-away project with a tiny dataset, compiled by `recipe build` and trained by the real `axolotl train`."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import pytest

from dataset_builder.rows import Row

ROOT = Path(__file__).resolve().parent.parent
MODEL = ".cache/models/smollm2-135m-instruct"
FACTS = (
    ("the Zorblax compiler", 'A compiler for the language "Quux", with 7 passes.'),
    ("oneQuark", "A library:\n\n```sh\nquark --install, then\nquark run\n```"),
)
"""Invented, so that no model knows them; quotes, commas, line ends and a code fence are what breaks CSV files."""
WORDINGS = ("What is {}?", "Explain {}.", "Tell me about {}.", "Describe {} in short, please.")


@dataclass(frozen=True)
class Run:
    """One finished `axolotl train`."""

    output: str
    project: Path

    def values(self, name: str) -> list[float]:
        """Everything that was logged under a name, in order."""
        return [float(text) for text in re.findall(rf"'{name}': '?(-?[0-9.e+-]+)'?", self.output)]


def conversations() -> list[list[dict[str, str]]]:
    return [
        [{"role": "user", "content": wording.format(name)}, {"role": "assistant", "content": answer}]
        for wording in WORDINGS
        for name, answer in FACTS
    ]


def write_dataset(project: Path, name: str) -> None:
    """`generated/<name>/dataset/` as `recipe data` leaves it: two CSV files and the lock."""
    folder = project / "generated" / name / "dataset"
    folder.mkdir(parents=True)
    rows = [_row(messages) for messages in conversations()]
    for file, chosen in (("train.csv", rows), ("eval_recall.csv", rows[:2])):
        with open(folder / file, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\r\n")
            writer.writerow([field.name for field in fields(Row)])
            writer.writerows(astuple(row) for row in chosen)
    lock = {
        "rows": len(rows),
        "eval_rows": 2,
        "mean_tokens": 64.0,
        "p99_tokens": 90,
        "max_tokens": 96,
        "train_sha256": hashlib.sha256((folder / "train.csv").read_bytes()).hexdigest(),
        "train_path": f"generated/{name}/dataset/train.csv",
        "eval_path": f"generated/{name}/dataset/eval_recall.csv",
    }
    (folder / "dataset.lock.json").write_text(json.dumps(lock), encoding="utf-8")


def _row(messages: list[dict[str, str]]) -> Row:
    question, answer = messages[0]["content"], messages[1]["content"]
    ids = ("0" * 16, "0" * 16)
    return Row(
        question, "", answer, json.dumps(messages), *ids, "plain", answer, "notes.md", "Notes", "MIT", "0" * 64
    )  # fmt: skip


def prepared_models() -> Path:
    """The repository's `.cache/models`. Made by the command itself, run there: it knows the only folder it may
    replace."""
    if not (ROOT / MODEL / "prepared.json").is_file():
        done = call(ROOT, "recipe", "prepare")
        assert done.returncode == 0, done.stdout
    return ROOT / ".cache/models"


def make_project(folder: Path, name: str, training: str, target: str) -> Path:
    """A project folder with one recipe, its dataset and the embedded model; `training` is YAML, one field a line."""
    models = prepared_models()
    (folder / "recipes").mkdir(parents=True)
    (folder / ".cache").mkdir()
    (folder / ".cache/models").symlink_to(models, target_is_directory=True)
    (folder / "docs").mkdir()
    (folder / "docs/notes.md").write_text("# Notes\n", encoding="utf-8")
    body = "".join(f"  {line.strip()}\n" for line in training.strip().splitlines())
    (folder / "recipes" / f"{name}.yaml").write_text(
        f"name: {name}\nbase_model: embedded/smollm2-135m-instruct\ntargets:\n  cpu: {target}\n"
        "dataset:\n  sources: [{kind: files, path: docs}]\n  generator: {model: embedded}\n"
        f"training:\n{body}export: {{gguf: q8_0, ollama: true}}\n",
        encoding="utf-8",
    )
    write_dataset(folder, name)
    return folder


PINNED = """
micro_batch: 2
gradient_accumulation: 2
sequence_len: 128
epochs: 2
learning_rate: 0.002
warmup: 0
eval_every: 2
save_every: never
logging: none
"""
SETUPS = {
    "lora": "method: lora\n" + PINNED,
    "qlora": "method: qlora-4bit\n" + PINNED,
    "zero2": "method: lora\nzero_stage: 2\noffload: optimizer\n" + PINNED,
    "two": "method: lora\nzero_stage: 2\noffload: optimizer\n" + PINNED.replace("accumulation: 2", "accumulation: 1"),
}
"""What is trained in the tests, by name; the values under `training:`."""
_DONE: dict[str, Run] = {}


def trained(name: str, folders: pytest.TempPathFactory) -> Run:
    """One of SETUPS, built and trained once a session, on first use: a run takes half a minute and more."""
    if name not in _DONE:
        count = 2 if name == "two" else 1
        target = f"{{gpu: cpu, count: {count}, ram_budget: 8 GiB}}"
        project = make_project(folders.mktemp(name) / "project", name, SETUPS[name], target)
        build(project)
        _DONE[name] = train(project, name, timeout_s=550 if name == "two" else 400)
    return _DONE[name]


def environment() -> dict[str, str]:
    """Offline, quiet, and with this Python's scripts first on PATH (Axolotl starts `accelerate`, `torchrun` by
    name)."""
    scripts = str(Path(sys.executable).parent)
    not_inherited = ("ACCELERATE_", "RANK", "WORLD_SIZE", "MASTER_", "LOCAL_RANK")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(not_inherited)}
    return {
        **kept,
        "PATH": scripts + os.pathsep + os.environ.get("PATH", ""),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "AXOLOTL_DO_NOT_TRACK": "1",
        "CUDA_VISIBLE_DEVICES": "",
        # Two threads wait for one another where the machine has other work: on a loaded one that costs a factor of ten.
        "RECIPE_CPU_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def call(project: Path, *command: str, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
    """A script of this Python's environment, run in the project."""
    program = [str(Path(sys.executable).parent / command[0]), *command[1:]]
    with subprocess.Popen(
        program, cwd=project, env=environment(), text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the session that was started here: launchers have children
            output, _ = process.communicate()
            raise AssertionError(f"{' '.join(command)} took more than {timeout_s} s:\n{output[-4000:]}") from None
    return subprocess.CompletedProcess(program, process.returncode, output)


def build(project: Path) -> None:
    done = call(project, "recipe", "build")
    assert done.returncode == 0, done.stdout


def train(project: Path, name: str, target: str = "cpu", timeout_s: float = 280) -> Run:
    """`axolotl train` with the arguments that the config's own header names."""
    config = project / "generated" / name / target / "axolotl.yaml"
    line = next(line for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("# train: "))
    words = line.removeprefix("# train: ").split()
    words = words[words.index("axolotl") :]  # what stands before it is environment, and ours holds it
    done = call(project, *words, timeout_s=timeout_s)
    assert done.returncode == 0, done.stdout[-6000:]
    return Run(done.stdout, project)
