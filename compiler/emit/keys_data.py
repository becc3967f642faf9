"""Keys of the model, its tokens, and the data."""

from __future__ import annotations

from typing import Any

from compiler.emit.commented import Key, Section
from compiler.emit.reasons import decided, why
from compiler.values import Plan

CPU_PLUGIN = "compiler.axolotl_plugin.CpuPlugin"
LABEL_SMOOTHING_PLUGIN = "compiler.axolotl_plugin.LabelSmoothingPlugin"
LIGER_PLUGIN = "axolotl.integrations.liger.LigerPlugin"
CUT_PLUGIN = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"

MESSAGES_REASONS = {
    "ds_type": "said although the ending says it (rule 34)",
    "type": "the rows go through the model's own chat template (rule 36)",
    "field_messages": "the column that holds a JSON list of {role, content}",
    "roles_to_train": "only the assistant's words are learnt (rule 30)",
    "train_on_eos": "the same as train_on_eot, or Axolotl refuses a template whose turns end with EOS",
}


def model(plan: Plan) -> Section:
    """Base model, plugins, chat template and special tokens."""
    base = plan.case.model
    keys = [
        Key(
            "base_model",
            base.path,
            "asked for in the recipe (`base_model`)" + (f"; licence {base.licence}" if base.licence else ""),
        ),
        Key("trust_remote_code", False, "no code from the hub is run"),
    ]
    named = plugins(plan)
    if named:
        keys.append(Key("plugins", list(named), "; ".join(named.values())))
    if plan.decision("train_path").value is not None:
        keys += _template(plan)
    if plan.decision("pad_token").value is not None:
        keys.append(decided(plan, "special_tokens", "pad_token", {"pad_token": plan.decision("pad_token").value}))
    return Section("model and tokens", tuple(keys))


def plugins(plan: Plan) -> dict[str, str]:
    """Plugin -> why. A CUDA config needs none of ours, unless label smoothing is asked for, which Axolotl has no key
    for."""
    named = {}
    if plan.case.machine.backend == "cpu":
        named[CPU_PLUGIN] = (
            "Axolotl has no key for training on a CPU; this plugin sets use_cpu, gloo and threads, and records the "
            "run (rules 19, 25)"
        )
    if plan.setup.cross_entropy == "liger":
        named[LIGER_PLUGIN] = "without it the liger_ keys below would be dropped silently (rule 2)"
    if plan.setup.cross_entropy == "cut":
        named[CUT_PLUGIN] = "without it cut_cross_entropy below would be dropped silently (rule 2)"
    if plan.decision("label_smoothing").value:
        named[LABEL_SMOOTHING_PLUGIN] = "Axolotl has no key for label smoothing"
    return named


def _template(plan: Plan) -> list[Key]:
    keys = [decided(plan, "chat_template", "chat_template")]
    ends = plan.decision("eot_tokens").value
    if ends:
        keys.append(decided(plan, "eot_tokens", "eot_tokens", list(ends)))
    return keys


def data(plan: Plan) -> Section:
    """Training rows, held-out rows, and how rows become tensors. Without a dataset: random tokens, to measure a
    machine."""
    keys = _synthetic(plan) if plan.decision("train_path").value is None else _rows(plan)
    keys += [
        decided(plan, "sequence_len", "sequence_len"),
        decided(plan, "excess_length_strategy", "excess_length"),
        decided(plan, "sample_packing", "sample_packing"),
        decided(plan, "eval_sample_packing", "eval_sample_packing"),
        *_eval_length(plan),
        *_unused_columns(plan),
        decided(plan, "pad_to_sequence_len", "pad_to_sequence_len"),
        decided(plan, "train_on_inputs", "train_on_inputs"),
    ]
    if plan.case.machine.backend == "cpu":
        keys += [
            Key("dataloader_num_workers", 0, "a CPU has no copy to hide behind a second process"),
            Key("dataloader_pin_memory", False, "pinned memory is for copies to a device"),
        ]
    return Section("data", tuple(keys))


def _eval_length(plan: Plan) -> list[Key]:
    """Where held-out rows are shorter than the sequence length: no longer one can come and need more memory."""
    if not evaluates(plan) or plan.decision("eval_sequence_len").value >= plan.setup.sequence_len:
        return []
    return [decided(plan, "eval_sequence_len", "eval_sequence_len")]


def _unused_columns(plan: Plan) -> list[Key]:
    """Axolotl sets it silently where training packs and evaluation does not; a key that is written survives."""
    if plan.setup.sample_packing and not plan.decision("eval_sample_packing").value:
        return [
            Key("remove_unused_columns", False, "packed training rows and unpacked held-out rows differ in columns")
        ]
    return []


def _rows(plan: Plan) -> list[Key]:
    keys = [Key("datasets", [_csv(plan, "train_path")], why(plan, "train_path"), _inside(plan))]
    if evaluates(plan):
        keys.append(Key("test_datasets", [_csv(plan, "eval_path")], why(plan, "eval_path"), {}))
    keys += [
        Key("val_set_size", 0, "the split was made before variants were; splitting here would leak them (rule 35)"),
        decided(plan, "dataset_prepared_path", "prepared_path"),
        Key("shuffle_merged_datasets", True, "rows of one section would follow one another otherwise"),
    ]
    return keys


def evaluates(plan: Plan) -> bool:
    """Held-out rows are named only when they are used: Axolotl evaluates at the start as soon as they are (0.19,
    eval_on_start)."""
    return plan.decision("eval_every").value != "never" and plan.decision("eval_path").value is not None


def _csv(plan: Plan, field: str) -> dict[str, Any]:
    when = plan.decision("train_on_eot").value
    return {
        "path": plan.decision(field).value,
        "ds_type": "csv",
        "split": "train",
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
        "train_on_eos": when,
        "train_on_eot": when,
    }


def _inside(plan: Plan) -> dict[str, str]:
    return {**MESSAGES_REASONS, "train_on_eot": why(plan, "train_on_eot")}


def _synthetic(plan: Plan) -> list[Key]:
    """Axolotl's `_synthetic` type: full-length rows of random tokens, the workload that measures memory and speed."""
    steps = plan.decision("max_steps").value or 10
    entry = {
        "path": "synthetic",
        "type": "_synthetic",
        "length": plan.setup.effective_batch * steps,
        "sequence_length": plan.setup.sequence_len,
        "min_input_id": 100,
        "max_input_id": plan.case.model.architecture.vocab_size,
        "seed": plan.decision("seed").value,
    }
    return [
        Key(
            "datasets",
            [entry],
            "the recipe has no dataset: rows of random tokens at full length measure this machine and teach nothing",
        ),
        Key("val_set_size", 0, "nothing to evaluate"),
        decided(plan, "dataset_prepared_path", "prepared_path"),
    ]
