"""Every decision of a plan, as functions named like the field they settle.

`RULES_BEFORE` run before the choice and see the case alone; `RULES_AFTER` see the chosen setup too. Both are in the
order in
which they run: a rule may read what stands above it. The searched fields have their options in
`compiler.space.DOMAINS`.
A new rule is one function and one line here.
"""

from __future__ import annotations

from collections.abc import Callable

from compiler.rules.adapter import (
    double_quant,
    lora_alpha,
    lora_dropout,
    lora_kernels,
    lora_r,
    lora_targets,
    train_embeddings,
)
from compiler.rules.compute import precision, tf32, weights_dtype
from compiler.rules.draft import Draft
from compiler.rules.evaluation import eval_batch, eval_every, eval_sample_packing, eval_sequence_len
from compiler.rules.run import (
    deepspeed,
    early_stopping,
    keep_checkpoints,
    logging,
    pad_to_sequence_len,
    peer_to_peer,
    resume,
    save_every,
)
from compiler.rules.schedule import (
    effective_batch,
    epochs,
    gradient_accumulation,
    label_smoothing,
    learning_rate,
    lr_scheduler,
    max_grad_norm,
    max_steps,
    micro_batch,
    neftune_alpha,
    warmup,
    weight_decay,
)
from compiler.rules.text import (
    chat_template,
    eot_tokens,
    eval_path,
    excess_length,
    output_dir,
    pad_token,
    prepared_path,
    seed,
    train_on_eot,
    train_on_inputs,
    train_path,
)
from compiler.values import Decision

Rule = Callable[[Draft], Decision]

RULES_BEFORE: tuple[Rule, ...] = (
    precision,
    tf32,
    weights_dtype,  # precision
    lora_targets,
    lora_r,  # lora_targets
    lora_alpha,  # lora_r
    lora_dropout,
    double_quant,
    train_embeddings,
    label_smoothing,
    max_steps,
    epochs,
)

RULES_AFTER: tuple[Rule, ...] = (
    micro_batch,
    gradient_accumulation,
    lora_kernels,  # lora_targets, lora_dropout, weights_dtype
    effective_batch,
    deepspeed,
    peer_to_peer,
    chat_template,
    eot_tokens,  # chat_template
    pad_token,
    train_on_eot,
    train_on_inputs,
    train_path,
    eval_path,
    prepared_path,
    excess_length,
    pad_to_sequence_len,
    learning_rate,
    lr_scheduler,
    warmup,  # max_steps, epochs
    weight_decay,
    max_grad_norm,
    neftune_alpha,
    early_stopping,
    eval_sequence_len,
    eval_batch,  # eval_sequence_len
    eval_sample_packing,
    eval_every,  # eval_sequence_len, eval_batch
    save_every,  # eval_every
    keep_checkpoints,
    resume,
    seed,
    logging,
    output_dir,
)

__all__ = ["RULES_AFTER", "RULES_BEFORE", "Draft", "Rule"]
