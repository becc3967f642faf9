"""Shapes and parameter counts, checked against the real model classes."""

import os

import pytest

from compiler.architecture import UnsupportedArchitecture, config_dict, from_config
from compiler.families import FAMILIES

BASE = {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 7, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
BIG_CODE = {"vocab_size": 1000, "n_embd": 64, "n_inner": 256, "n_layer": 3, "n_head": 4, "n_positions": 128}

VARIANTS = [
    *[{"model_type": name, **BASE} for name in FAMILIES if name != "gpt_bigcode"],
    *[
        {"model_type": name, **BASE, "tie_word_embeddings": tied}
        for name in ("llama", "gemma2")
        for tied in (True, False)
    ],
    {"model_type": "llama", **BASE, "attention_bias": True, "mlp_bias": True},
    {"model_type": "llama", **BASE, "head_dim": 32},
    {"model_type": "qwen3", **BASE, "head_dim": 16},
    {"model_type": "gemma3_text", **BASE, "head_dim": 32, "sliding_window": 16},
    {"model_type": "olmo2", **BASE, "attention_bias": True},
    {"model_type": "starcoder2", **BASE, "use_bias": False},
    {"model_type": "starcoder2", **BASE, "attention_dropout": 0.1, "residual_dropout": 0.1, "embedding_dropout": 0.1},
    {"model_type": "qwen2", **BASE, "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 4},
    {"model_type": "qwen2", **BASE, "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 0},
    {"model_type": "qwen3", **BASE, "num_hidden_layers": 30, "use_sliding_window": True, "sliding_window": 32},
    {"model_type": "smollm3", **BASE, "num_hidden_layers": 9, "use_sliding_window": True, "sliding_window": 32},
    {"model_type": "smollm3", **BASE, "num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 32,
     "no_rope_layers": [1, 0, 0, 1]},
    {"model_type": "gpt_bigcode", **BIG_CODE},
    {"model_type": "gpt_bigcode", **BIG_CODE, "multi_query": False},
]


@pytest.fixture(scope="module")
def transformers():
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return pytest.importorskip("transformers")


def meta_model(transformers, config: dict):
    import torch

    built = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(built)


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", VARIANTS, ids=lambda c: "-".join(str(v) for k, v in c.items() if BASE.get(k) != v))
def test_parameters_equal_those_of_the_real_class(transformers, config):
    architecture = from_config(config)
    known = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    for source in ({**config, **known}, config_dict(architecture)):
        model = meta_model(transformers, source)
        linears = {
            name: (tuple(module.weight.shape), module.bias is not None)
            for name, module in model.named_modules()
            if type(module).__name__ in ("Linear", "Conv1D") and "lm_head" not in name
        }
        ours = architecture.linears
        assert sum(parameter.numel() for parameter in model.parameters()) == architecture.parameters.total
        assert len(linears) == len(ours) * architecture.num_layers
        for linear in ours:
            matching = [shape for name, shape in linears.items() if name.endswith("." + linear.name)]
            assert matching == [((linear.out_features, linear.in_features), linear.bias)] * architecture.num_layers


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", VARIANTS[:-2], ids=lambda c: c["model_type"])
def test_windowed_layers_equal_those_of_the_real_config(transformers, config):
    built = transformers.AutoConfig.for_model(**config)
    architecture = from_config(config)
    if getattr(built, "layer_types", None):
        assert built.layer_types.count("sliding_attention") == architecture.windowed_layers
    elif getattr(built, "sliding_window", None):
        assert architecture.sliding_window == built.sliding_window
        assert architecture.windowed_layers == built.num_hidden_layers


@pytest.mark.parametrize("config", VARIANTS, ids=lambda c: c["model_type"])
def test_config_dict_is_read_back_as_the_same_architecture(config):
    architecture = from_config(config)
    assert from_config(config_dict(architecture)) == architecture


def test_published_parameter_counts():
    gemma = from_config({
        "model_type": "gemma2", "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "head_dim": 256,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 8192,
    })  # fmt: skip
    assert gemma.parameters.total == 2_614_341_888  # model card: 2.61B
    assert (gemma.sliding_window, gemma.windowed_layers, gemma.attn_logit_softcapping) == (4096, 13, 50.0)
    assert gemma.query_size == 2048 != gemma.hidden_size


def test_lora_linears_by_group_and_by_name():
    llama = from_config({"model_type": "llama", **BASE})
    assert [one.name for one in llama.lora_linears("attention")] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert [one.name for one in llama.lora_linears(("down_proj", "q_proj"))] == ["q_proj", "down_proj"]
    assert llama.lora_parameters(4, ("q_proj",)) == 7 * 4 * (64 + 64)
    with pytest.raises(ValueError, match=r"no linear named c_attn; it has q_proj, k_proj"):
        llama.lora_linears(("c_attn",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "gemma3", "text_config": {}, "vision_config": {}}, "other modalities"),
        ({"model_type": "mamba"}, "not modelled; these are: llama"),
        ({"model_type": None}, "names no `model_type`"),
        ({"quantization_config": {"bits": 4}}, "already quantised"),
        ({"layer_types": ["linear_attention"]}, "linear_attention are not modelled"),
        ({"hidden_size": None}, "config.json has no `hidden_size`"),
        ({"hidden_size": "64"}, "`hidden_size` is '64', not a whole number"),
        ({"vocab_size": 0}, "`vocab_size` is 0"),
        ({"num_hidden_layers": True}, "`num_hidden_layers` is True"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads"),
        ({"hidden_size": 60, "num_attention_heads": 8}, "transformers refuses to load it"),
        ({"tie_word_embeddings": "yes"}, "not true or false"),
        ({"layer_types": [{}, None, 1]}, "layers of type 1, None, {} are not modelled"),
        ({"layer_types": 5}, "not a list"),
        ({"model_type": "gemma2", "layer_types": ["sliding_attention"]}, "1 entries for 7 layers"),
        ({"model_type": "gemma2", "attn_logit_softcapping": "50"}, "not a number above 0"),
        ({"model_type": "gemma2", "final_logit_softcapping": 0}, "not a number above 0"),
        ({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": "false"}, "not true or false"),
        ({"hidden_act": "gelu_fast"}, "`hidden_act: gelu_fast` is not modelled"),
        ({"hidden_act": "relu"}, "not modelled; silu, swish, gelu"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "without a language model's head"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_understood_is_refused(change, message):
    with pytest.raises(UnsupportedArchitecture, match=message):
        from_config({"model_type": "llama", **BASE, **change})
