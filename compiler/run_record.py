"""What a finished run left behind: the config that was trained, and what Axolotl and our CPU plugin logged of it.

read_run(path) -> Run       an output folder, or a generated axolotl.yaml; raises WorldProblem

Read are `README.md` (Axolotl writes the config it trained into the model card), `debug.log` (every line it printed),
`checkpoint-*/trainer_state.json` (the same figures, unrounded) and `recipe-run.json` (compiler/axolotl_plugin.py).
Names of the figures: `log` in axolotl/core/trainers/base.py, 0.19.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from compiler.problems import WorldProblem
from compiler.values import Setup

MODEL_CARD, LOG, STATE, RECORD = "README.md", "debug.log", "trainer_state.json", "recipe-run.json"
PEAKS = {"allocated": "memory/max_allocated (GiB)", "reserved": "memory/device_reserved (GiB)"}
RATE, TRAINABLE, TOTAL = "tokens/train_per_sec_per_gpu", "tokens/trainable", "tokens/total"
DECIDING = (
    "adapter", "load_in_4bit", "load_in_8bit", "lora_r", "micro_batch_size", "gradient_accumulation_steps",
    "sequence_len", "sample_packing", "optimizer", "bf16", "chunked_cross_entropy",
)  # fmt: skip
"""Keys that `axolotl train` can be given on its command line and that would make another run of a config."""
LOSSES = {"liger": "liger_fused_linear_cross_entropy", "cut": "cut_cross_entropy", "chunked": "chunked_cross_entropy"}
TRAIN_AGAIN = "train a config that `recipe build` wrote, as it is, then calibrate its output folder"

_FIRST = re.compile(r"^# (?P<recipe>\S+) on (?P<target>\S+): (?P<model>.+), \d+ x .+$", re.MULTILINE)
_VALUES = re.compile(r"^# values (?P<digest>[0-9a-f]{16}), machine (?P<count>\d+) x (?P<machine>.+?)\s*$", re.MULTILINE)
_CARD_CONFIG = re.compile(r"```yaml\n(.*?)\n```", re.DOTALL)
_RECORD = re.compile(r"\{'[^{}\n]*'[^{}\n]*\}")
_PAIR = re.compile(r"'([^']+)': '?(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\b")
_STAMP = re.compile(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)[,.]\d+\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Config:
    """A generated axolotl.yaml that nobody edited."""

    recipe: str
    target: str
    model: str
    machine: str
    """Id of the machine in the facts, or the name of one that the recipe describes."""
    devices: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was logged. None where it was not."""

    date: str
    """`YYYY-MM-DD hh:mm:ss`, as the run's own log has it."""
    axolotl: str | None
    torch: str | None
    peak_allocated_bytes: int | None
    peak_reserved_bytes: int | None
    """Of the first device, by torch's allocator; the process itself takes more."""
    peak_resident_bytes: int | None
    """Of a CPU run: the whole process."""
    seconds_per_step: float | None
    """Median over the logged windows: one that evaluated or saved does not count."""
    step_tokens: float | None
    """Token slots, padding included, of one optimizer step on all devices."""
    epochs: float
    steps: int
    """Optimizer steps that our plugin counted; 0 where it did not run."""
    threads: int | None
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    folder: Path
    config: Config
    figures: Figures


def read_run(path: Path) -> Run:
    """The run that `path` names. Raises WorldProblem: not ours, edited, unfinished, or nothing logged."""
    folder, text, where = _find(path)
    config = read_config(text, where)
    log = _text(folder / LOG)
    if f"'{TOTAL}'" not in log:
        log = ""  # of `axolotl merge-lora`, which starts it anew in the same folder
    effective = effective_config(log)
    if effective:
        _refuse_other_values(config, effective, folder)
    return Run(folder, config, _figures(folder, config, log, effective))


def read_config(text: str, where: str) -> Config:
    """Raises WorldProblem where the text is none of ours, of an older version of us, or was edited."""
    import yaml

    from compiler.build import MARKER
    from compiler.emit.stamp import digest

    first, stamp = _FIRST.search(text), _VALUES.search(text)
    if MARKER not in text or first is None:
        raise WorldProblem(f"{where} was not made by `recipe build`", TRAIN_AGAIN)
    if stamp is None:
        raise WorldProblem(f"{where} was made by an older version that did not say for which machine", TRAIN_AGAIN)
    try:
        values = yaml.safe_load(text)
        same = isinstance(values, dict) and digest(values) == stamp["digest"]
    except (yaml.YAMLError, TypeError, ValueError):
        same = False
    if not same:
        raise WorldProblem(f"{where} was edited after `recipe build` made it", TRAIN_AGAIN)
    return Config(first["recipe"], first["target"], first["model"], stamp["machine"], int(stamp["count"]), values)


def setup_of(config: Config) -> Setup:
    """What was trained, read back from Axolotl's keys: the inverse of `compiler.emit`."""
    values = config.values
    adapter, in_8bit = values.get("adapter"), values.get("load_in_8bit")
    method = "full" if adapter is None else "qlora-4bit" if adapter == "qlora" else "lora-8bit" if in_8bit else "lora"
    precision = next((name for name in ("bf16", "fp16", "tf32") if values.get(name)), "fp32")
    weights = {"bf16": "bf16", "fp16": "fp16"}.get(precision, "fp16" if method == "lora-8bit" else "fp32")
    checkpointing = "off" if not values.get("gradient_checkpointing") else "on"
    if checkpointing == "on" and values.get("activation_offloading"):
        checkpointing = "offload"
    targets = "all-linear" if values.get("lora_target_linear") else tuple(values.get("lora_target_modules") or ())
    loss = next((kind for kind, key in LOSSES.items() if values.get(key)), "standard")
    zero = (values.get("deepspeed") or {}).get("zero_optimization", {})
    return Setup(
        method=method,
        micro_batch=values["micro_batch_size"],
        gradient_accumulation=values["gradient_accumulation_steps"],
        sequence_len=values["sequence_len"],
        gradient_checkpointing=checkpointing,
        optimizer=values["optimizer"],
        attention=values["attn_implementation"],
        cross_entropy=loss,
        sample_packing=bool(values.get("sample_packing")),
        precision=precision,
        weights_dtype=weights,
        lora_r=values.get("lora_r"),
        lora_alpha=values.get("lora_alpha"),
        lora_dropout=float(values.get("lora_dropout") or 0.0),
        lora_targets=targets if adapter else "all-linear",
        lora_kernels=bool(values.get("lora_mlp_kernel")),
        double_quant=(values.get("bnb_config_kwargs") or {}).get("bnb_4bit_use_double_quant", True),
        train_embeddings=bool(values.get("lora_modules_to_save")),
        zero_stage=zero.get("stage", 0),
        fsdp=_fsdp(values),
        offload=_offload(zero, values.get("fsdp_config") or {}),
        devices=config.devices,
    )


def _fsdp(values: dict[str, Any]) -> str:
    config = values.get("fsdp_config")
    if not config:
        return "none"
    return "shard_grad_op" if config.get("reshard_after_forward") is False else "full_shard"


def _offload(zero: dict[str, Any], fsdp: dict[str, Any]) -> str:
    if "offload_param" in zero or fsdp.get("offload_params"):
        return "params"
    return "optimizer" if "offload_optimizer" in zero else "none"


def effective_config(log: str) -> dict[str, Any] | None:
    """The config as Axolotl understood it, which it prints after validation; None where the log holds none."""
    at = log.find("config:\n{")
    if at < 0:
        return None
    try:
        return json.JSONDecoder().raw_decode(log, at + len("config:\n"))[0]
    except ValueError:
        return None


def records(log: str) -> Iterator[dict[str, float]]:
    """The figures of every printed record, in order. Values stand bare or in quotes, by version of transformers.

    >>> list(records("100%|##| 2/2 [00:01]{'loss': '2.5', 'tokens/total': 506, 'epoch': '1'}"))
    [{'loss': 2.5, 'tokens/total': 506.0, 'epoch': 1.0}]
    """
    for match in _RECORD.finditer(log):
        yield {name: float(value) for name, value in _PAIR.findall(match[0])}


def windows(found: list[dict[str, float]], devices: int, every: int) -> list[tuple[float, float]]:
    """(seconds, token slots) of one optimizer step, for each pair of neighbouring records.

    Axolotl logs learnt tokens a second and device, and both counters; the seconds of a window follow. `every`: steps
    between records that do not say their step.
    """
    made = []
    for before, now in pairwise([one for one in found if "loss" in one and TOTAL in one and TRAINABLE in one]):
        learnt, slots = now[TRAINABLE] - before[TRAINABLE], now[TOTAL] - before[TOTAL]
        steps = now["step"] - before["step"] if "step" in now and "step" in before else every
        if learnt > 0 and slots > 0 and steps > 0 and now.get(RATE, 0) > 0:
            made.append((learnt / (devices * now[RATE]) / steps, slots / steps))
    return made


def _figures(folder: Path, config: Config, log: str, effective: dict[str, Any] | None) -> Figures:
    found, sources = list(records(log)), [LOG] if log else []
    state = None if any(TOTAL in one for one in found) else _newest_state(folder)
    if state is not None:
        found = [_numbers(one) for one in _json(state).get("log_history", []) if isinstance(one, dict)]
        sources.append(state.relative_to(folder).as_posix())
    record = _json(folder / RECORD) if (folder / RECORD).is_file() else {}
    sources += [RECORD] if record else []
    from statistics import median

    steps = windows(found, config.devices, config.values.get("logging_steps", 1))
    seconds = record.get("seconds_per_step") or (median(one[0] for one in steps) if steps else None)
    slots = median(one[1] for one in steps) if steps else None
    if record.get("tokens_per_second") and seconds:
        slots = record["tokens_per_second"] * seconds
    peaks = {name: round(max((one.get(key, 0.0) for one in found), default=0.0) * 2**30) for name, key in PEAKS.items()}
    resident = record.get("peak_train_bytes")
    if not any(peaks.values()) and not resident and not seconds:
        raise WorldProblem(
            f"{folder} holds no measurement: neither {LOG} nor a checkpoint's {STATE} has two steps with `{TOTAL}`",
            "let the run log at least two steps; every config of `recipe build` has `include_tkps: true`",
        )
    card, versions = _text(folder / MODEL_CARD), record.get("versions", {})
    torch = re.search(r"^- Pytorch (\S+)", card, re.MULTILINE)
    axolotl = re.search(r"axolotl version: `([^`]+)`", card)
    return Figures(
        date=_date(log, folder, sources),
        axolotl=versions.get("axolotl") or (axolotl[1] if axolotl else None),
        torch=versions.get("torch") or (torch[1] if torch else _torch(effective)),
        peak_allocated_bytes=peaks["allocated"] or None,
        peak_reserved_bytes=peaks["reserved"] or None,
        peak_resident_bytes=resident,
        seconds_per_step=seconds,
        step_tokens=slots,
        epochs=max((one.get("epoch", 0.0) for one in found), default=0.0),
        steps=int(record.get("steps") or 0),
        threads=record.get("threads"),
        sources=tuple(sources),
    )


def _find(path: Path) -> tuple[Path, str, str]:
    """(output folder, text of the config that was trained, what to call it)."""
    import yaml

    if path.is_file():
        text = _text(path)
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError:
            values = None
        if not isinstance(values, dict) or not isinstance(values.get("output_dir"), str):
            raise WorldProblem(f"{path} is no config of Axolotl", "name a generated axolotl.yaml, or its output folder")
        folder = Path(values["output_dir"])
        if not folder.is_dir():
            raise WorldProblem(f"{path} was not trained yet: there is no {folder}", f"axolotl train {path}")
    elif path.is_dir():
        folder, text = path, ""
    else:
        raise WorldProblem(f"there is no {path}", "name a run's output folder, or its generated axolotl.yaml")
    card = _CARD_CONFIG.search(_text(folder / MODEL_CARD))
    if card:  # written when training ends, whatever became of the file since
        return folder, card[1], f"the config in {folder / MODEL_CARD}"
    if text:
        return folder, text, str(path)
    named = (effective_config(_text(folder / LOG)) or {}).get("axolotl_config_path")
    if not isinstance(named, str):
        raise WorldProblem(
            f"{folder} does not say which config was trained", f"name an output folder that holds {LOG} or {MODEL_CARD}"
        )
    # the run may have been somewhere else: below `generated/` the path is the same
    tail = Path(*Path(named).parts[-4:])
    kept = next((one for one in (Path(named), tail) if one.is_file()), None)
    if kept is None:
        raise WorldProblem(f"{folder} was trained from {tail}, which is gone", "run `recipe build`, then train again")
    return folder, _text(kept), str(tail)


def _refuse_other_values(config: Config, effective: Mapping[str, Any], folder: Path) -> None:
    for name in DECIDING:
        stated, used = config.values.get(name), effective.get(name)
        if name in config.values and name in effective and stated != used:
            raise WorldProblem(
                f"the run in {folder} used `{name}: {used}`, its generated config says `{stated}`", TRAIN_AGAIN
            )


def _newest_state(folder: Path) -> Path | None:
    found = [*folder.glob(f"checkpoint-*/{STATE}"), *folder.glob(STATE)]
    return max(found, key=lambda path: (int(_json(path).get("global_step", 0)), path.as_posix()), default=None)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _date(log: str, folder: Path, sources: list[str]) -> str:
    """Of the log's first line; without a log of training, when the newest source was written."""
    stamp = _STAMP.search(log)
    if stamp:
        return stamp[1]
    written = max((folder / name).stat().st_mtime for name in sources)
    return datetime.fromtimestamp(written).strftime("%Y-%m-%d %H:%M:%S")


def _torch(effective: Mapping[str, Any] | None) -> str | None:
    return ((effective or {}).get("env_capabilities") or {}).get("torch_version")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise WorldProblem(f"{path} is damaged or half written", "let the run end, or remove the file")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
