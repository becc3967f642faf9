"""Keys of the optimiser, of evaluation and checkpoints, and of logging."""

from __future__ import annotations

from compiler.emit.commented import Key, Section
from compiler.emit.keys_data import evaluates
from compiler.emit.reasons import decided, why
from compiler.values import Plan


def optimisation(plan: Plan) -> Section:
    """Batch, optimiser, schedule, length of the run, regularisation."""
    setup = plan.setup
    keys = [
        Key("micro_batch_size", setup.micro_batch, why(plan, "micro_batch")),
        Key(
            "gradient_accumulation_steps",
            setup.gradient_accumulation,
            why(plan, "gradient_accumulation"),
        ),
        decided(plan, "eval_batch_size", "eval_batch"),
        Key("optimizer", setup.optimizer, why(plan, "optimizer")),
        decided(plan, "learning_rate", "learning_rate"),
        decided(plan, "lr_scheduler", "lr_scheduler"),
        _warmup(plan),
        decided(plan, "weight_decay", "weight_decay"),
        decided(plan, "max_grad_norm", "max_grad_norm"),
        *_length(plan),
    ]
    if plan.decision("neftune_alpha").value is not None:
        keys.append(decided(plan, "neftune_noise_alpha", "neftune_alpha"))
    if plan.decision("label_smoothing").value:
        keys.append(decided(plan, "label_smoothing_factor", "label_smoothing"))
    keys.append(decided(plan, "seed", "seed"))
    return Section("optimisation", tuple(keys))


def _warmup(plan: Plan) -> Key:
    """Whole numbers are steps, fractions a share. Without epochs the share is turned into steps: Axolotl would take it
    of one epoch."""
    value, reason = plan.decision("warmup").value, why(plan, "warmup")
    if isinstance(value, float) and plan.decision("epochs").value is not None:
        return Key("warmup_ratio", value, reason)
    steps = value if isinstance(value, int) else max(1, round(value * plan.speed.steps))
    return Key("warmup_steps", steps, reason)


def _length(plan: Plan) -> list[Key]:
    keys = []
    if plan.decision("train_path").value is None:
        keys.append(Key("num_epochs", 1, "one pass over the random rows"))
    elif plan.decision("epochs").value is not None:
        keys.append(decided(plan, "num_epochs", "epochs"))
    if plan.decision("max_steps").value is not None:
        keys.append(decided(plan, "max_steps", "max_steps"))
    return keys


def run(plan: Plan) -> Section:
    """Where results go, when to evaluate and save, when to stop, where to go on."""
    keys = [decided(plan, "output_dir", "output_dir"), *_evaluation(plan), *_saving(plan)]
    patience = plan.decision("early_stopping").value
    if patience:
        keys += [
            decided(plan, "early_stopping_patience", "early_stopping"),
            Key("load_best_model_at_end", True, "early stopping goes back to the best checkpoint (rule 38)"),
            Key("metric_for_best_model", "eval_loss", "what early stopping watches"),
            Key("greater_is_better", False, "it is a loss"),
        ]
    else:
        keys.append(Key("load_best_model_at_end", False, f"the last step is kept: {why(plan, 'early_stopping')}"))
    going_on = plan.decision("resume").value
    if isinstance(going_on, str):
        keys.append(decided(plan, "resume_from_checkpoint", "resume"))
    else:
        keys.append(decided(plan, "auto_resume_from_checkpoints", "resume", bool(going_on)))
    return Section("run control", tuple(keys))


def _evaluation(plan: Plan) -> list[Key]:
    every, reason = plan.decision("eval_every").value, why(plan, "eval_every")
    if not evaluates(plan):
        return [Key("eval_strategy", "no", reason)]
    if every == "epoch":
        return [Key("eval_strategy", "epoch", reason)]
    return [Key("eval_strategy", "steps", "eval_steps says when"), Key("eval_steps", every, reason)]


def _saving(plan: Plan) -> list[Key]:
    every, reason = plan.decision("save_every").value, why(plan, "save_every")
    if every == "never":
        return [Key("save_strategy", "no", reason)]
    keys = [Key("save_strategy", "epoch", reason)]
    if every != "epoch":
        keys = [Key("save_strategy", "steps", "save_steps says when"), Key("save_steps", every, reason)]
    keys += [
        decided(plan, "save_total_limit", "keep_checkpoints"),
        Key("save_only_model", False, "a checkpoint without the optimizer cannot be resumed from (rule 39)"),
    ]
    return keys


def logging(plan: Plan) -> Section:
    """Curves; throughput and memory are always logged, because `recipe calibrate` reads them."""
    chosen = plan.decision("logging").value
    keys = [
        Key(
            "logging_steps",
            1 if plan.speed.steps <= 100 else 10,
            "every step of a short run, every tenth of a long one",
        ),
        Key("include_tkps", True, "tokens per second and memory are logged; `recipe calibrate` reads them"),
    ]
    if chosen != "none":
        keys.append(Key(f"use_{chosen}", True, why(plan, "logging")))
    name = f"{plan.case.recipe.name}-{plan.case.target}"
    if chosen == "wandb":
        keys += [
            Key("wandb_project", plan.case.recipe.name, "one project a recipe"),
            Key("wandb_name", name, "one run a target"),
        ]
    if chosen == "mlflow":
        keys += [
            Key("mlflow_experiment_name", plan.case.recipe.name, "one experiment a recipe"),
            Key("mlflow_run_name", name, "one run a target"),
        ]
    if chosen == "trackio":
        keys += [
            Key("trackio_project_name", plan.case.recipe.name, "one project a recipe"),
            Key("trackio_run_name", name, "one run a target"),
        ]
    return Section("logging", tuple(keys))
