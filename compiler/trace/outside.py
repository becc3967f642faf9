"""Memory outside the training step, traced: an evaluation batch, and what Axolotl casts after loading."""

from __future__ import annotations

import contextlib
import gc
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from compiler.architecture import Architecture, config_dict
from compiler.memory import skips_upcast
from compiler.memory.static import autocasts, optimizer_of
from compiler.stacks import AXOLOTL
from compiler.trace.attention import patched_functions
from compiler.trace.build import build_model, cast_loaded, load_model, to_fake, weights_dtype
from compiler.trace.follower import StorageFollower
from compiler.trace.lora_kernels import install_lora_kernels, kernel_patches
from compiler.trace.optimizers import make_optimizer
from compiler.trace.step import follow, make_states, patched
from compiler.values import Setup


def trace_evaluation(architecture: Architecture, setup: Setup, rows: int, length: int, on_cpu: bool = False) -> int:
    """Peak of live bytes while `rows` held-out rows of `length` tokens are evaluated between two steps, as Trainer's
    `prediction_step` does it: no gradients, labels given, the returned logits copied to FP32 by accelerate.

    Liger's loss is fused in training only, so evaluation takes the standard one (liger_kernel 0.8, `skip_logits =
    self.training`)."""
    evaluated = replace(setup, cross_entropy="standard") if setup.cross_entropy == "liger" else setup
    model, causal = build_model(config_dict(architecture), replace(evaluated, sequence_len=length), AXOLOTL)
    patches = patched_functions(False, on_cpu) + (kernel_patches() if setup.lora_kernels else [])
    with patched(patches), FakeTensorMode(allow_non_fake_inputs=True):
        to_fake(model)
        if setup.lora_kernels:
            install_lora_kernels(causal)
        follower = follow(model, causal, setup)
        trainable = [one for one in model.parameters() if one.requires_grad]
        optimizer = make_optimizer(model, setup.optimizer, optimizer_of(setup))
        with follower:
            make_states(trainable, optimizer, follower)
            model.eval()
            follower.enter("eval")
            _predict(model, rows, length, autocasts(setup))
    peak = follower.peaks["eval"].total_bytes
    del model, causal, optimizer, trainable, follower
    gc.collect()
    return peak


def _predict(model: nn.Module, rows: int, length: int, autocast: bool) -> None:
    tokens = torch.randint(0, 1000, (rows, length))
    context = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
    with torch.no_grad():
        with context:
            outputs: Any = model(input_ids=tokens, labels=tokens.clone(), use_cache=False)
        if autocast and outputs.logits is not None:
            outputs.logits = outputs.logits.float()
        outputs.loss.detach().mean()


def trace_loading(architecture: Architecture, setup: Setup) -> int:
    """Peak of live bytes while Axolotl casts embeddings, head and norms of a model that lies on the device
    (`_configure_embedding_dtypes`), and while the last linear of a quantised model arrives, whole, beside the rest
    (`core_model_loading.py`)."""
    causal = load_model(config_dict(architecture), setup)
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_fake(causal)
        causal.requires_grad_(False)
        follower: StorageFollower = follow(causal, causal, setup)
        with follower:
            follower.enter("load")
            if setup.method in ("qlora-4bit", "lora-8bit"):
                largest = max(architecture.linears, key=lambda one: one.weights)
                torch.empty((largest.out_features, largest.in_features), dtype=weights_dtype(setup))
            cast_loaded(causal, setup, AXOLOTL, skips_upcast(architecture, setup))
    peak = follower.peaks["load"].total_bytes
    del causal, follower
    gc.collect()
    return peak
