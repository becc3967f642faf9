"""Generated files train: real Axolotl on the CPU, a few steps each, and the loss falls."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from axolotl_project import MODEL, SETUPS, Run, conversations, trained

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    return lambda name: trained(name, tmp_path_factory)


@pytest.mark.parametrize("name", SETUPS)
def test_generated_config_trains_and_the_loss_falls(name: str, run: Callable[[str], Run]) -> None:
    done = run(name)
    losses, held_out = done.values("loss"), done.values("eval_loss")
    assert len(losses) == 4, done.output[-3000:]
    assert held_out[-1] < held_out[0] - 0.1
    assert losses[-1] < losses[0]
    assert (done.project / "outputs" / name / "cpu" / "adapter_model.safetensors").stat().st_size > 1_000_000


def test_qlora_is_what_axolotl_understood(run: Callable[[str], Run]) -> None:
    assert '"load_in_4bit": true' in run("qlora").output  # Axolotl's own config, printed after validation
    assert '"adapter": "qlora"' in run("qlora").output


def test_zero2_offload_runs_under_deepspeed(run: Callable[[str], Run]) -> None:
    project = run("zero2").project
    config = json.loads((project / "generated/zero2/cpu/deepspeed.json").read_text())
    assert config["zero_optimization"]["stage"] == 2
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert "DeepSpeed" in run("zero2").output


def test_two_processes_train_together_over_gloo(run: Callable[[str], Run]) -> None:
    record = json.loads((run("two").project / "outputs/two/cpu/recipe-run.json").read_text())
    assert record["processes"] == 2
    assert record["steps"] == 4


def prepared_rows(run: Run) -> list[dict]:
    """The rows that Axolotl tokenised, from the folder that the generated config names."""
    from datasets import load_from_disk

    folders = sorted({path.parent for path in (run.project / ".cache/prepared").rglob("state.json")})
    rows = [dict(row) for folder in folders for row in load_from_disk(str(folder))]
    assert rows
    return rows


def test_token_ids_are_the_tokenizers_own(run: Callable[[str], Run]) -> None:
    from transformers import AutoTokenizer

    done = run("lora")
    tokenizer = AutoTokenizer.from_pretrained(done.project / MODEL)
    wanted = set()
    for messages in conversations():
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        wanted.add(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))
    assert {tuple(row["input_ids"]) for row in prepared_rows(done)} == wanted


def test_labels_are_the_answer_and_its_end_of_turn(run: Callable[[str], Run]) -> None:
    from transformers import AutoTokenizer

    done = run("lora")
    tokenizer = AutoTokenizer.from_pretrained(done.project / MODEL)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    answers = {messages[1]["content"] for messages in conversations()}
    for row in prepared_rows(done):
        learnt = [(place, token) for place, token in enumerate(row["labels"]) if token != -100]
        tokens = [token for _, token in learnt]
        assert tokens[-1] == end
        assert end not in tokens[:-1]
        assert tokenizer.decode(tokens[:-1]) in answers
        assert all(row["input_ids"][place] == token for place, token in learnt)
        assert learnt[-1][0] - learnt[0][0] == len(learnt) - 1, "the answer is one run of tokens"


def test_run_is_recorded_for_calibration(run: Callable[[str], Run]) -> None:
    project = run("lora").project
    record = json.loads((project / "outputs/lora/cpu/recipe-run.json").read_text())
    assert record["steps"] == 4
    assert record["timed_steps"] == 3
    assert record["tokens_per_second"] > 0
    assert record["peak_train_bytes"] > (project / MODEL / "model.safetensors").stat().st_size
