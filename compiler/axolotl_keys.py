"""Axolotl's keys, as far as the front door needs them: which exist, and which a recipe states by another name."""

from functools import cache
from pathlib import Path

STATED_AS = {
    "base_model": "base_model",
    "adapter": "training.method",
    "load_in_4bit": "training.method",
    "load_in_8bit": "training.method",
    "micro_batch_size": "training.micro_batch",
    "batch_size": "training.effective_batch",
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "sequence_len": "training.sequence_len",
    "sample_packing": "training.sample_packing",
    "num_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "learning_rate": "training.learning_rate",
    "lr_scheduler": "training.lr_scheduler",
    "warmup_steps": "training.warmup",
    "warmup_ratio": "training.warmup",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "seed": "training.seed",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "activation_offloading": "training.gradient_checkpointing",
    "optimizer": "training.optimizer",
    "attn_implementation": "training.attention",
    "eager_attention": "training.attention",
    "sdp_attention": "training.attention",
    "flash_attention": "training.attention",
    "flex_attention": "training.attention",
    "xformers_attention": "training.attention",
    "sage_attention": "training.attention",
    "liger_fused_linear_cross_entropy": "training.cross_entropy",
    "liger_cross_entropy": "training.cross_entropy",
    "cut_cross_entropy": "training.cross_entropy",
    "chunked_cross_entropy": "training.cross_entropy",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "tf32": "training.precision",
    "bfloat16": "training.weights_dtype",
    "float16": "training.weights_dtype",
    "float32": "training.weights_dtype",
    "lora_r": "training.lora_r",
    "lora_alpha": "training.lora_alpha",
    "lora_dropout": "training.lora_dropout",
    "lora_target_linear": "training.lora_targets",
    "lora_target_modules": "training.lora_targets",
    "lora_modules_to_save": "training.train_embeddings",
    "lora_mlp_kernel": "training.lora_kernels",
    "lora_qkv_kernel": "training.lora_kernels",
    "lora_o_kernel": "training.lora_kernels",
    "lora_embedding_kernel": "training.lora_kernels",
    "deepspeed": "training.zero_stage",
    "fsdp_config": "training.fsdp",
    "fsdp_version": "training.fsdp",
    "neftune_noise_alpha": "training.neftune_alpha",
    "eval_steps": "training.eval_every",
    "eval_strategy": "training.eval_every",
    "evals_per_epoch": "training.eval_every",
    "save_steps": "training.save_every",
    "save_strategy": "training.save_every",
    "saves_per_epoch": "training.save_every",
    "save_total_limit": "training.keep_checkpoints",
    "early_stopping_patience": "training.early_stopping",
    "resume_from_checkpoint": "training.resume",
    "auto_resume_from_checkpoints": "training.resume",
    "use_tensorboard": "training.logging",
    "use_wandb": "training.logging",
    "use_mlflow": "training.logging",
    "use_trackio": "training.logging",
}
"""Axolotl's key -> the recipe's field."""

FREE = frozenset(
    key
    for key, field in STATED_AS.items()
    if field.rpartition(".")[2]
    in ("learning_rate", "lr_scheduler", "warmup", "weight_decay", "max_grad_norm", "seed", "neftune_alpha", "logging")
    or field.rpartition(".")[2] in ("eval_every", "save_every", "keep_checkpoints", "early_stopping", "resume")
)
"""Those that cost no bytes and no seconds: they may be stated by hand, unless the recipe states the field as well."""

OWNED = {
    "datasets": "the dataset that `recipe data` builds; describe it under `dataset:`",
    "test_datasets": "the held-out rows that `recipe data` sets aside; see `dataset.evaluation`",
    "val_set_size": "the held-out rows that `recipe data` sets aside; Axolotl refuses both",
    "dataset_prepared_path": "a folder named by the dataset's digest, so that no stale tokens are trained on",
    "output_dir": "a folder that eval and export know",
    "plugins": "the plugins that the planned cross-entropy and device need",
    "eot_tokens": "the end-of-turn tokens of the model, without which it never learns to stop",
}
"""Keys that the compiler must write itself, with what they hold."""

REFUSED = {
    "fsdp": "it is FSDP1, which Axolotl removes next; `training.fsdp` shards with FSDP2",
    "max_packed_sequence_len": "Axolotl removed it; `training.sequence_len` and `training.sample_packing` say the same",
    "rope_scaling": "Axolotl removed it; use `overrides_of_model_config`",
    "s2_attention": "Axolotl removed it; state `training.attention`",
    "flash_attn_rms_norm": "Axolotl removed it; `liger_rms_norm` does the same",
    "tensor_parallel_size": "memory and speed are not planned for it",
    "context_parallel_size": "memory and speed are not planned for it",
    "sequence_parallel_degree": "memory and speed are not planned for it",
    "layer_offloading": "memory and speed are not planned for it",
    "pretraining_dataset": "recipes train on questions and answers",
    "reward_model": "recipes train on questions and answers",
    "process_reward_model": "recipes train on questions and answers",
    "rl": "recipes train on questions and answers; preference training is not planned",
}
"""Keys of Axolotl that no recipe can use, with the reason."""


@cache
def axolotl_keys() -> frozenset[str]:
    """Every top-level key that Axolotl and the plugins it ships accept; any other is silently dropped by Axolotl."""
    text = Path(__file__).with_name("axolotl_keys.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))
