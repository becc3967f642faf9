"""`recipe eval`: figures against transformers' own loss, and what it says when there is nothing to score."""

import csv
import json
import math

import pytest
import yaml
from click.testing import CliRunner

from compiler.commands.eval import table
from compiler.evaluate import evaluate, read_questions, read_trained
from compiler.metrics import cosine, token_f1
from compiler.problems import WorldProblem

HEADER = "instruction,input,output,messages,id,parent,view,quote,source,section,licence,sha256"


def write_eval_csv(path, questions):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(HEADER.split(","))
        for number, (question, answer) in enumerate(questions):
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            row = [question, "", answer, json.dumps(messages), str(number), str(number)]
            writer.writerow([*row, "direct", "", "docs/a.md", "A", "", ""])


def test_token_f1():
    assert token_f1("the card has 12 GiB", "The card has 12 GiB.") == 1
    assert token_f1("it has 16 GiB", "it has 12 GiB") == pytest.approx(0.75)
    assert token_f1("", "anything") == 0
    assert token_f1("`lora_r`", "`lora_alpha`") == 0, "identifiers are whole words"


def test_cosine():
    assert cosine([1.0, 0.0], [0.0, 3.0]) == 0
    assert cosine([0.0, 0.0], [1.0, 1.0]) == 0


def test_a_bad_row_is_named_by_its_line(tmp_path):
    path = tmp_path / "eval_recall.csv"
    write_eval_csv(path, [("a?", "b")])
    path.write_text(path.read_text() + "q,,a,not json,9,9,direct,,,,,\n")
    with pytest.raises(WorldProblem, match=r"eval_recall\.csv:3: unusable messages"):
        read_questions(path)


def test_nothing_trained_is_said_with_the_command_that_trains(tmp_path):
    config = tmp_path / "axolotl.yaml"
    config.write_text(yaml.safe_dump({"base_model": "x", "adapter": "lora", "output_dir": str(tmp_path / "out")}))
    with pytest.raises(WorldProblem, match="no trained weights"):
        read_trained(config)
    with pytest.raises(WorldProblem, match="recipe build"):
        read_trained(tmp_path / "missing.yaml")


def test_an_unknown_target_is_one_message(tmp_path, monkeypatch):
    from compiler.cli import main

    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\nbase_model: embedded/smollm2-135m-instruct\n"
                      "targets: {cpu: {gpu: cpu, ram_budget: 8 GiB}}\n")
    result = CliRunner().invoke(main, ["eval", str(recipe), "--target", "gpu"])
    assert result.exit_code == 1
    assert "has no target 'gpu'" in result.stderr and "one of: cpu" in result.stderr


@pytest.fixture(scope="module")
def report(embedded_folder, tmp_path_factory):
    """A whole evaluation of an adapter that changes one weight; 2 + 1 questions."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("eval")
    write_eval_csv(folder / "eval_recall.csv", [("What is the capital of France?", "The capital of France is Paris."),
                                                ("Name a colour.", "Blue is a colour.")])
    write_eval_csv(folder / "eval_transfer.csv", [("What is 2 + 2?", "2 + 2 is 4.")])
    model = AutoModelForCausalLM.from_pretrained(embedded_folder)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.002)
    adapted.save_pretrained(folder / "out")
    config = folder / "axolotl.yaml"
    settings = {"base_model": str(embedded_folder), "adapter": "lora", "output_dir": str(folder / "out")}
    config.write_text(yaml.safe_dump(settings))
    return folder, config, evaluate(folder, config, lambda _: None)


@pytest.mark.e2e
def test_the_loss_is_that_of_transformers_with_masked_labels(report, embedded_folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_folder)
    model = AutoModelForCausalLM.from_pretrained(embedded_folder, dtype=torch.float32)
    row = report[2]["sets"]["recall"]["rows"][0]
    user = {"role": "user", "content": row["question"]}
    prompt = tokenizer.apply_chat_template([user], add_generation_prompt=True, return_dict=True)["input_ids"]
    assistant = {"role": "assistant", "content": row["reference"]}
    whole = tokenizer.apply_chat_template([user, assistant], return_dict=True)["input_ids"]
    labels = torch.tensor([[-100] * len(prompt) + whole[len(prompt):]])
    with torch.inference_mode():
        loss = model(torch.tensor([whole]), labels=labels).loss.item()
    assert row["base"]["loss"] == pytest.approx(loss, rel=1e-3)
    assert "Paris" in row["base"]["text"]


@pytest.mark.e2e
def test_base_and_tuned_differ_and_the_table_says_how(report):
    folder, _, result = report
    scores = result["sets"]["recall"]["scores"]
    assert scores["base"]["loss"] != scores["tuned"]["loss"]
    assert scores["base"]["perplexity"] == pytest.approx(math.exp(scores["base"]["loss"]))
    assert 0 < scores["base"]["cosine"] <= 1, "wordllama is in the lock, so there is an embedding"
    assert json.loads((folder / "out" / "eval.json").read_text()) == result
    text = table(result)
    assert "recall: 2 questions" in text and "transfer: 1 questions" in text


@pytest.mark.e2e
def test_an_unchanged_run_is_not_scored_again(report, monkeypatch):
    folder, config, result = report
    monkeypatch.setattr("compiler.evaluate.load", lambda *_, **__: pytest.fail("the model was loaded again"))
    assert evaluate(folder, config, lambda _: None) == result
