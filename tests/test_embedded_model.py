"""The converted embedded model, checked against llama.cpp, which reads the same GGUF by itself."""

import json

import pytest
import requests

from compiler.embedded import RECORD, prepare, prepared
from compiler.problems import WorldProblem

TEXTS = (
    "What does the option `--fp8` do?",
    "Version 2.13.0 of torch.xpu, released 2026-07-01",
    "def f(x):\n    return x ** 2  # größer, 中文",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture(scope="module")
def tokenizer(embedded_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_folder)


@pytest.fixture(scope="module")
def llama_cpp(embedded_gguf):
    from dataset_builder.embedded import serve_embedded

    with serve_embedded(embedded_gguf, slots=1, context_tokens=512) as api_base:
        yield api_base.removesuffix("/v1")


@pytest.mark.e2e
@pytest.mark.parametrize("text", TEXTS)
def test_token_ids_equal_those_of_llama_cpp(tokenizer, llama_cpp, text):
    answer = requests.post(f"{llama_cpp}/tokenize", json={"content": text, "parse_special": True}, timeout=60).json()
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == answer["tokens"]


@pytest.mark.e2e
def test_special_tokens_agree_with_the_chat_template(tokenizer, embedded_folder):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False)
    assert chat.rstrip().endswith(tokenizer.eos_token)
    assert chat.startswith(tokenizer.bos_token)
    assert tokenizer.pad_token not in chat and tokenizer.pad_token_id != tokenizer.eos_token_id
    config = json.loads((embedded_folder / "config.json").read_text())
    generation = json.loads((embedded_folder / "generation_config.json").read_text())
    for ids in (config, generation):
        assert ids["eos_token_id"] == tokenizer.eos_token_id
        assert ids["pad_token_id"] == tokenizer.pad_token_id


@pytest.mark.e2e
def test_the_model_answers_and_stops(tokenizer, embedded_folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(embedded_folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )
    out = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1]:]
    assert "Paris" in tokenizer.decode(out)
    assert out[-1] == tokenizer.eos_token_id, "it stops by itself"


def test_a_folder_without_its_record_is_not_whole(tmp_path):
    assert not prepared(tmp_path)
    (tmp_path / RECORD).write_text('{"gguf_sha256": "of another file"}')
    assert not prepared(tmp_path)


def test_a_folder_with_something_else_in_it_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(WorldProblem, match="holds something else"):
        prepare(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "ten years of work"


@pytest.mark.e2e
def test_a_whole_folder_is_used_as_it_is(embedded_folder):
    before = (embedded_folder / "model.safetensors").stat().st_mtime_ns
    assert prepare(embedded_folder) == embedded_folder
    assert (embedded_folder / "model.safetensors").stat().st_mtime_ns == before
