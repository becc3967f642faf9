"""Export: the merged model, its GGUF file and the Modelfile say what the trained model says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from axolotl_project import call, environment, trained

from compiler.check import load_recipe
from compiler.export import TEMPLATES, export, modelfile, quantised
from compiler.facts import models
from compiler.gguf_file import FAMILIES, llama3_factors, pre_tokenizer, write_gguf
from compiler.problems import WorldProblem

QUESTION = "What is the Zorblax compiler?"
NEW_TOKENS = 12
GREEDY = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
text = tokenizer.apply_chat_template([{"role": "user", "content": sys.argv[2]}], tokenize=False,
add_generation_prompt=True)
given = tokenizer(text, add_special_tokens=False, return_tensors="pt")
made = model.generate(**given, max_new_tokens=int(sys.argv[3]), do_sample=False)[0, given["input_ids"].shape[1]:]
print("ANSWER" + tokenizer.decode(made, skip_special_tokens=True))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    done = trained("lora", tmp_path_factory)
    result = call(done.project, "recipe", "export", "recipes/lora.yaml")
    assert result.returncode == 0, result.stdout
    return done.project


@pytest.fixture(scope="module")
def merged_answer(project: Path) -> str:
    """Greedy answer of transformers' merged model."""
    folder = project / "outputs/lora/cpu/merged"
    done = subprocess.run(
        [sys.executable, "-c", GREEDY, str(folder), QUESTION, str(NEW_TOKENS)],
        env=environment(), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.partition("ANSWER")[2].strip()


@pytest.fixture(scope="module")
def served(project: Path) -> Iterator[str]:
    """llama.cpp's own server with the exported file."""
    from dataset_builder.embedded import serve_embedded

    with serve_embedded(project / "outputs/lora/cpu/export/lora-q8_0.gguf", slots=1, context_tokens=1024) as api_base:
        yield api_base


def ask(api_base: str) -> str:
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "top_k": 1, "max_tokens": NEW_TOKENS}
    request = urllib.request.Request(
        api_base + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)["choices"][0]["message"]["content"].strip()


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_llama_cpp_answers_like_the_merged_model(served: str, merged_answer: str) -> None:
    assert merged_answer
    assert ask(served) == merged_answer


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_modelfile_names_the_file_the_template_and_the_stop(project: Path) -> None:
    text = (project / "outputs/lora/cpu/export/Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./lora-q8_0.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "You are a helpful AI assistant named SmolLM" in text, "the template's own system message"


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_files_of_every_native_type_are_written_and_smaller(project: Path, tmp_path: Path) -> None:
    import gguf

    sizes = {}
    for file_type in ("f16", "q8_0", "q4_0"):
        path = tmp_path / f"{file_type}.gguf"
        quantised(project / "outputs/lora/cpu/merged", path, file_type, "m")
        sizes[file_type] = path.stat().st_size
        reader = gguf.GGUFReader(path)
        assert {tensor.name for tensor in reader.tensors} >= {
            "token_embd.weight",
            "output_norm.weight",
            "blk.29.ffn_down.weight",
        }
    assert sizes["q4_0"] < sizes["q8_0"] < sizes["f16"]


def write_recipe(folder: Path, export_part: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(
        "name: r\nbase_model: embedded/smollm2-135m-instruct\ntargets:\n  cpu: {gpu: cpu, ram_budget: 8 "
        "GiB}\n" + export_part,
        encoding="utf-8",
    )
    return path


def test_nothing_trained_yet_is_one_clear_message(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, ""))
    with pytest.raises(WorldProblem, match=r"(?s)holds no trained model.*axolotl train"):
        export(recipe, "cpu", tmp_path)
    with pytest.raises(WorldProblem, match="no target `gpu`"):
        export(recipe, "gpu", tmp_path)


def test_a_run_that_was_killed_is_told_apart(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, ""))
    output = tmp_path / "outputs/r/cpu"
    output.mkdir(parents=True)
    (output / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WorldProblem, match="training did not end"):
        export(recipe, "cpu", tmp_path)


def test_k_quants_say_what_is_missing_and_what_works_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorldProblem, match=r"(?s)llama-quantize.*q8_0"):
        quantised(tmp_path, tmp_path / "m.gguf", "q4_k_m", "m")
    assert not list(tmp_path.glob("*.gguf*"))


def test_an_unknown_family_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma2"}), encoding="utf-8")
    with pytest.raises(WorldProblem, match=r"(?s)gemma2.*convert_hf_to_gguf"):
        write_gguf(tmp_path, tmp_path / "m.gguf", "f16", "m")
    assert not list(tmp_path.glob("m.gguf*"))


def test_an_unknown_way_of_splitting_text_is_refused() -> None:
    with pytest.raises(WorldProblem, match="splitting text"):
        pre_tokenizer({"pre_tokenizer": {"type": "Metaspace"}})
    digits = {"type": "Digits", "individual_digits": True}
    assert (
        pre_tokenizer({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, {"type": "ByteLevel"}]}})
        == "smollm"
    )


def test_llama3_frequencies_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=2048, num_attention_heads=32, max_position_embeddings=131072, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    ours = [
        500000.0 ** -(number / 64) / factor
        for number, factor in zip(range(0, 64, 2), llama3_factors(config.to_dict()), strict=True)
    ]
    assert scaled.tolist() == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize(
    "name", ["google/gemma-2-2b-it", "Qwen/Qwen2.5-1.5B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"]
)
def test_modelfile_ends_turns_as_the_model_does(name: str) -> None:
    from compiler.base_model import find_model

    text = modelfile("m.gguf", find_model(name), "Be short.")
    assert all(f'PARAMETER stop "{token}"' in text for token in models()[name].end_of_turn)
    assert 'SYSTEM "Be short."' in text
    assert re.search(r'TEMPLATE """.*"""', text, re.DOTALL)


def test_families_and_templates_are_known_to_the_catalogue() -> None:
    known = {models()[name].architecture.model_type for name in models()}
    assert set(FAMILIES) <= known
    ends = {token for name in models() for token in models()[name].end_of_turn}
    assert set(TEMPLATES) <= ends
