"""Fields against one another and against the facts: combinations that cannot be. One small function each, in `RULES`.

A rule yields complaints; it stays silent where what it needs is unknown or faulty, since that is said already. What
merely is slow or does not fit is no problem of the recipe: the plan says so, with numbers.
"""

from collections.abc import Callable, Iterator
from itertools import islice

from compiler.axolotl_keys import FREE, OWNED, REFUSED, STATED_AS, axolotl_keys
from compiler.check_machine import MACHINE_RULES
from compiler.check_types import Complaint, Facts, close, shown
from compiler.constraints import BITSANDBYTES
from compiler.problems import Problem
from compiler.source import Source


def target_names(facts: Facts) -> Iterator[Complaint]:
    """Targets become folders beside `dataset`, on systems that do not tell `A` from `a`."""
    seen: dict[str, str] = {}
    for name in facts.recipe.targets:
        if name.lower() == "dataset":
            yield Complaint(("targets", name), f"a target cannot be called `{name}`", "name it after its machine", True)
        if name.lower() in seen:
            message = f"`{seen[name.lower()]}` and `{name}` would share a folder on macOS and Windows"
            yield Complaint(("targets", name), message, "rename one of them", True)
        seen[name.lower()] = name


def full_or_adapter(facts: Facts) -> Iterator[Complaint]:
    """Full fine-tuning has no adapters to shape."""
    if facts.stated("method") != "full":
        return
    for name, idle in (("lora_r", None), ("lora_alpha", None), ("lora_dropout", 0.0), ("lora_targets", "all-linear")):
        value = facts.stated(name)
        if value is not None and value != idle:
            yield facts.complain(name, f"`{name}` belongs to adapters; `method: full` has none", f"delete `{name}`")
    if facts.stated("lora_kernels"):
        yield facts.complain("lora_kernels", "LoRA kernels need adapters; `method: full` has none", "write `false`")


def fp16_weights(facts: Facts) -> Iterator[Complaint]:
    """torch/amp/grad_scaler.py: "Attempting to unscale FP16 gradients"."""
    if facts.stated("method") == "full" and facts.stated("weights_dtype") == "fp16":
        yield facts.complain(
            "weights_dtype", "FP16 weights cannot be trained: their gradients cannot be unscaled", "write `fp32`"
        )


def batches(facts: Facts) -> Iterator[Complaint]:
    """effective_batch = micro_batch x gradient_accumulation x devices, exactly."""
    whole = facts.stated("effective_batch")
    if whole is None:
        return
    micro, steps = facts.stated("micro_batch"), facts.stated("gradient_accumulation")
    for name, target in facts.recipe.targets.items():
        rows = (micro or 1) * (steps or 1) * target.count
        parts = [f"micro_batch {micro}"] * bool(micro) + [f"gradient_accumulation {steps}"] * bool(steps)
        parts += [f"{target.count} devices of `{name}`"] * (target.count > 1)
        if (micro and steps and rows != whole) or whole % rows:
            nearest = rows if micro and steps else rows * max(1, round(whole / rows))
            relation = "is not" if micro and steps else "is no multiple of"
            message = f"effective_batch {whole} {relation} {' x '.join(parts)}"
            yield facts.complain("effective_batch", message, f"write {nearest}, or leave one of them to `auto`")
            return


def length_of_run(facts: Facts) -> Iterator[Complaint]:
    """Trainers let max_steps win without a word."""
    if facts.stated("epochs") is not None and facts.stated("max_steps") is not None:
        yield facts.complain(
            "max_steps", "`epochs` and `max_steps` both say when training ends", "keep one of them", at_key=True
        )


def warmup_of_constant(facts: Facts) -> Iterator[Complaint]:
    """transformers/optimization.py: the `constant` schedule ignores warm-up steps."""
    if facts.stated("lr_scheduler") == "constant" and facts.stated("warmup"):
        yield facts.complain(
            "lr_scheduler", "the `constant` schedule has no warm-up", "write `constant_with_warmup`, or `warmup: 0`"
        )


def warmup_of_run(facts: Facts) -> Iterator[Complaint]:
    """A learning rate that never gets to its peak."""
    warmup, steps = facts.stated("warmup"), facts.stated("max_steps")
    if isinstance(warmup, int) and steps is not None and warmup >= steps:
        yield facts.complain("warmup", f"{warmup} steps of warm-up in a run of {steps}", "write fewer, or a share")


def early_stopping(facts: Facts) -> Iterator[Complaint]:
    """The best checkpoint can only be kept if each evaluation has one (axolotl schemas/validation.py; transformers
    `load_best_model_at_end`)."""
    if facts.stated("early_stopping") is None:
        return
    evals, saves = facts.stated("eval_every"), facts.stated("save_every")
    for name, value in (("eval_every", evals), ("save_every", saves)):
        if value == "never":
            yield facts.complain(name, f"early_stopping needs `{name}`", "write a number of steps, `epoch` or `auto`")
    if "never" in (evals, saves) or evals is None or saves is None:
        return
    if isinstance(evals, int) and isinstance(saves, int):
        if saves % evals:
            fix = f"write {evals * max(1, round(saves / evals))}"
            yield facts.complain("save_every", f"early_stopping needs a multiple of eval_every ({evals})", fix)
    elif evals != saves:
        yield facts.complain(
            "save_every", f"early_stopping evaluates every {evals} but saves every {saves}", "use one unit"
        )


def evaluation_rows(facts: Facts) -> Iterator[Complaint]:
    """Axolotl refuses evaluation without evaluation rows."""
    dataset = facts.recipe.dataset
    if dataset is None or dataset.evaluation.recall != 0:
        return
    path = ("dataset", "evaluation", "recall")
    if facts.stated("early_stopping") is not None:
        yield Complaint(path, "early_stopping needs held-out rows, and this asks for none", "write a number above 0")
    elif facts.stated("eval_every") not in (None, "never"):
        yield Complaint(path, "eval_every needs held-out rows, and this asks for none", "write a number above 0")


def checkpoints(facts: Facts) -> Iterator[Complaint]:
    """What is never written can be neither kept nor resumed from."""
    if facts.stated("save_every") != "never":
        return
    if facts.stated("keep_checkpoints") is not None:
        yield facts.complain("keep_checkpoints", "`save_every: never` leaves nothing to keep", "delete one of them")
    if facts.recipe.training.resume is True:
        yield facts.complain("resume", "`save_every: never` leaves nothing to resume from", "delete one of them")


def resume(facts: Facts) -> Iterator[Complaint]:
    """A word that means yes or no is no path."""
    value = facts.recipe.training.resume
    if isinstance(value, str) and value.strip().lower() in ("", "yes", "no", "on", "off", "true", "false", "auto"):
        meant = "true" if value.lower() in ("yes", "on", "true", "auto") else "false"
        yield facts.complain("resume", f"`{shown(value)}` is taken for the path of a checkpoint", f"write `{meant}`")


def label_smoothing(facts: Facts) -> Iterator[Complaint]:
    """Smoothing is computed from logits that these losses never give out."""
    loss = facts.stated("cross_entropy")
    if facts.recipe.training.label_smoothing and loss in ("liger", "cut", "chunked"):
        yield facts.complain(
            "label_smoothing",
            f"`cross_entropy: {loss}` has no label smoothing",
            "write 0, or `cross_entropy: standard`",
        )


def lora_kernels(facts: Facts) -> Iterator[Complaint]:
    """axolotl schemas/validation.py refuses its kernels with 8-bit weights and with dropout."""
    if not facts.stated("lora_kernels"):
        return
    if facts.stated("lora_dropout"):
        yield facts.complain("lora_dropout", "LoRA kernels cannot drop inputs", "write 0, or `lora_kernels: false`")
    if facts.stated("method") == "lora-8bit":
        yield facts.complain("lora_kernels", "Axolotl refuses LoRA kernels on 8-bit weights", "write `false`")


def lora_target_list(facts: Facts) -> Iterator[Complaint]:
    """A list names modules; the words for sets of modules stand alone."""
    targets = facts.stated("lora_targets")
    for number, name in enumerate(targets if isinstance(targets, tuple) else ()):
        path = ("training", "lora_targets", number)
        if name in ("all-linear", "attention", "auto"):
            yield Complaint(path, f"`{name}` is no module name", f"write `lora_targets: {name}`, without a list")
        elif name in targets[:number]:
            yield Complaint(path, f"`{shown(name)}` is named twice", "delete it")


def zero_quantised(facts: Facts) -> Iterator[Complaint]:
    """ZeRO-3 cannot gather weights that bitsandbytes has packed (axolotl #933, #1092, #1154)."""
    method = facts.stated("method")
    if facts.stated("zero_stage") == 3 and method in ("qlora-4bit", "lora-8bit"):
        yield facts.complain("zero_stage", f"ZeRO-3 cannot shard the packed weights of `{method}`", "write 2")


def fsdp_or_zero(facts: Facts) -> Iterator[Complaint]:
    """Both shard; Axolotl takes the two together without a word and fails later (rule 22)."""
    asked = facts.stated("fsdp")
    if asked in (None, "none"):
        return
    if facts.stated("zero_stage"):
        yield facts.complain("fsdp", "`fsdp` and `zero_stage` both shard", "keep one of them", at_key=True)
    optimizer = facts.stated("optimizer")
    if optimizer in BITSANDBYTES:
        message = f"bitsandbytes' `{optimizer}` fails on FSDP2's shards"
        yield facts.complain("optimizer", message, "write `adamw_torch_fused`, or `auto`")
    if facts.stated("method") == "lora-8bit":
        message = "int8 weights under FSDP2 are verified by nobody"
        yield facts.complain("method", message, "write `lora` or `qlora-4bit`")
    if facts.stated("train_embeddings"):
        message = "FSDP2 with trained copies of the embeddings is not planned"
        yield facts.complain("train_embeddings", message, "write `false`, or shard with `zero_stage: 2`")
    if facts.stated("offload") == "optimizer":
        yield facts.complain("offload", "FSDP offloads weights and states together", "write `params`")


def offload_stage(facts: Facts) -> Iterator[Complaint]:
    """Offloads are DeepSpeed's (deepspeed.ai/docs/config-json): optimizer from stage 1 on, weights in stage 3."""
    offload, stage = facts.stated("offload"), facts.stated("zero_stage")
    if stage is not None and ((offload == "optimizer" and stage == 0) or (offload == "params" and stage != 3)):
        needed = 3 if offload == "params" else 2
        yield facts.complain("zero_stage", f"`offload: {offload}` needs `zero_stage: {needed}`", f"write {needed}")
    method = facts.stated("method")
    sharded = facts.stated("fsdp") not in (None, "none")
    if offload == "params" and stage is None and not sharded and method in ("qlora-4bit", "lora-8bit"):
        yield facts.complain(
            "offload",
            f"`params` needs ZeRO-3, which cannot shard the packed weights of `{method}`",
            "write `optimizer`",
        )


def offload_optimizer(facts: Facts) -> Iterator[Complaint]:
    """An offloaded step is DeepSpeed's CPU Adam in FP32."""
    optimizer = facts.stated("optimizer")
    if facts.stated("offload") in ("optimizer", "params") and optimizer and not optimizer.startswith("adamw_torch"):
        yield facts.complain("optimizer", f"`{optimizer}` cannot step in host RAM", "write `adamw_torch`, or `auto`")


def row_counts(facts: Facts) -> Iterator[Complaint]:
    dataset = facts.recipe.dataset
    if dataset is None:
        return
    pairs, recall = dataset.pairs, dataset.evaluation.recall
    if pairs.total is not None and pairs.total < pairs.unique:
        message = f"{pairs.total:,} rows cannot hold {pairs.unique:,} unique pairs"
        yield Complaint(("dataset", "pairs", "total"), message, f"write at least {pairs.unique}")
    if recall is not None and recall > pairs.unique:
        message = f"{recall:,} questions on {pairs.unique:,} facts: recall asks each fact once"
        yield Complaint(("dataset", "evaluation", "recall"), message, f"write at most {pairs.unique}")


def sources(facts: Facts) -> Iterator[Complaint]:
    """The same documents twice would be asked, paid and counted twice."""
    dataset = facts.recipe.dataset
    for number, source in enumerate(dataset.sources if dataset else ()):
        path = ("dataset", "sources", number)
        if source.kind == "web" and not source.url.lower().startswith(("http://", "https://")):
            yield Complaint((*path, "url"), f"`{shown(source.url)}` is no web address", "write https://...")
        if source in dataset.sources[:number]:
            yield Complaint(
                path, f"this source stands here twice, first as sources[{dataset.sources.index(source)}]", "delete it"
            )


def endpoints(facts: Facts) -> Iterator[Complaint]:
    dataset = facts.recipe.dataset
    for role in ("generator", "judge"):
        settings = getattr(dataset, role, None)
        base = settings.api_base if settings else None
        if base is not None and not base.lower().startswith(("http://", "https://")):
            path = ("dataset", role, "api_base")
            yield Complaint(path, f"`{shown(base)}` is no URL", "write one such as http://127.0.0.1:8081/v1")


def licences(facts: Facts) -> Iterator[Complaint]:
    dataset = facts.recipe.dataset
    for number, name in enumerate(dataset.licences.deny if dataset else ()):
        if name in (dataset.licences.allow or ()):
            yield Complaint(
                ("dataset", "licences", "deny", number), f"`{shown(name)}` is allowed above", "delete one of them"
            )


def ollama(facts: Facts) -> Iterator[Complaint]:
    """Ollama reads GGUF; a Modelfile without one points nowhere."""
    if facts.recipe.export.ollama and facts.recipe.export.gguf is None:
        yield Complaint(("export", "ollama"), "a Modelfile needs a GGUF file", "add `gguf: q4_k_m`")


def escape_hatch(facts: Facts) -> Iterator[Complaint]:
    """Axolotl drops unknown keys without a word, and a planned value stated behind the plan's back makes it untrue."""
    for key in facts.recipe.axolotl:
        path = ("axolotl", key)
        if key in REFUSED:
            yield Complaint(path, f"Axolotl's `{key}` cannot be used here", REFUSED[key], True)
        elif key in OWNED:
            yield Complaint(path, f"the compiler writes `{key}` itself", f"delete it; it is {OWNED[key]}", True)
        elif key in STATED_AS:
            field = STATED_AS[key].rpartition(".")[2]
            if key not in FREE or facts.stated(field) is not None:
                yield Complaint(path, f"`{key}` is planned", f"state it as `{STATED_AS[key]}`", True)
        elif key not in axolotl_keys():
            near = close(key, sorted(axolotl_keys()), 0.7)
            fix = f"did you mean `{near}`?" if near else "delete it; `axolotl config-schema` lists what there is"
            yield Complaint(path, f"Axolotl has no key `{shown(key)}` and would drop it silently", fix, True)


RULES: tuple[Callable[[Facts], Iterator[Complaint]], ...] = (
    target_names,
    full_or_adapter,
    fp16_weights,
    batches,
    length_of_run,
    warmup_of_constant,
    warmup_of_run,
    early_stopping,
    evaluation_rows,
    checkpoints,
    resume,
    label_smoothing,
    lora_kernels,
    lora_target_list,
    zero_quantised,
    fsdp_or_zero,
    offload_stage,
    offload_optimizer,
    row_counts,
    sources,
    endpoints,
    licences,
    ollama,
    escape_hatch,
    *MACHINE_RULES,
)


MOST_OF_ONE_RULE = 100
"""Nobody reads more, and each may search hundreds of names for what was meant."""


def together_problems(source: Source, facts: Facts) -> list[Problem]:
    """What every rule complains about, at its place in the text."""
    return [
        source.problem(complaint.path, complaint.message, complaint.fix, complaint.at_key)
        for rule in RULES
        for complaint in islice(rule(facts), MOST_OF_ONE_RULE)
    ]
