"""Before and after: the held-out questions asked of the base model and of the trained one.

What was trained is read from the generated axolotl.yaml, so that exactly this is scored. Each question is answered
greedily (no sampling, so a second run gives the same table) and the reference answer is scored by its loss.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from compiler.metrics import cosine, mean, token_f1
from compiler.problems import WorldProblem
from compiler.write import write_text

SETS = (
    ("recall", "eval_recall.csv", "trained facts in a wording that was never trained"),
    ("transfer", "eval_transfer.csv", "sections that were never trained"),
)
ANSWER_TOKENS = 96
"""Longest answer that is generated."""
BATCH = 8
SCHEMA = 1
"""Of eval.json; part of its digest."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row of an eval CSV as chat messages: the prompt, and the answer it should get."""

    id: str
    prompt: tuple[dict, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model made of a question; `loss` is nats per reference token."""

    id: str
    text: str
    loss: float
    reference_tokens: int


@dataclass(frozen=True, slots=True)
class Trained:
    """The run that a generated config describes."""

    base_model: str
    adapter: bool
    output_dir: Path
    files: tuple[Path, ...]
    """The weights that training wrote."""


def read_questions(path: Path) -> list[Question]:
    """Rows of an eval CSV. Raises WorldProblem naming the line that has no usable `messages`."""
    questions = []
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        for row in reader:
            try:
                messages = json.loads(row["messages"])
                *prompt, last = messages
                if last["role"] != "assistant" or not prompt:
                    raise ValueError("the last message is not the assistant's")
                questions.append(Question(row["id"], tuple(prompt), last["content"]))
            except (KeyError, TypeError, ValueError) as error:
                where = f"{path}:{reader.line_num}"
                raise WorldProblem(f"{where}: unusable messages: {error}", fix="run `recipe data` again") from error
    return questions


def read_trained(config: Path) -> Trained:
    """What `config` (an axolotl.yaml) trained. Raises WorldProblem where it, or what it should have written, lacks."""
    try:
        settings = yaml.safe_load(config.read_text())
    except FileNotFoundError as error:
        raise WorldProblem(f"{config} does not exist", fix="run `recipe build` first") from error
    folder = Path(settings["output_dir"])
    adapter = settings.get("adapter") is not None
    files = sorted(folder.glob("adapter_model*.safetensors" if adapter else "model*.safetensors"))
    if not files:
        raise WorldProblem(f"{folder} holds no trained weights", fix=f"axolotl train {config}")
    return Trained(settings["base_model"], adapter, folder, tuple(files))


def digest_of(*files: Path) -> str:
    hasher = hashlib.sha256(str((SCHEMA, ANSWER_TOKENS)).encode())
    for file in files:
        with file.open("rb") as stream:
            hasher.update(hashlib.file_digest(stream, "sha256").digest())
    return hasher.hexdigest()


def evaluate(dataset: Path, config: Path, say: Callable[[str], None]) -> dict:
    """The report: per set and model the mean loss, perplexity, token F1 and (with wordllama installed) cosine.

    `dataset` is the folder with the eval CSVs. Written to <output_dir>/eval.json, whole; when that file was made from
    the same questions and weights, it is read and nothing is computed. Raises WorldProblem.
    """
    trained = read_trained(config)
    sets = {name: dataset / file for name, file, _ in SETS if (dataset / file).is_file()}
    questions = {name: read_questions(path) for name, path in sets.items()}
    if not any(questions.values()):
        raise WorldProblem(f"{dataset} holds no held-out questions", fix="run `recipe data` first")
    made_from = digest_of(*sets.values(), *trained.files, config)
    target = trained.output_dir / "eval.json"
    try:
        report = json.loads(target.read_text())
        if report.get("made_from") == made_from:
            say(f"{target}: nothing changed since it was made")
            return report
    except (OSError, ValueError):
        pass
    answers = {}
    for model in ("base", "tuned"):
        loaded = load(trained, tuned=model == "tuned")
        answers[model] = {
            name: list(ask(loaded, asked, lambda done, all_, m=model, n=name: say(f"{m}, {n}: {done}/{all_}")))
            for name, asked in questions.items()
        }
    report = {
        "made_from": made_from,
        "base_model": trained.base_model,
        "config": str(config),
        "sets": summarise(questions, answers),
    }
    write_text(target, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


def summarise(questions: dict[str, list[Question]], answers: dict[str, dict[str, list[Answer]]]) -> dict:
    """Per set: number of questions, what each model scored, and every answer beside its reference."""
    embed = embedder()
    summary = {}
    for name, asked in questions.items():
        if not asked:
            continue
        scores = {}
        for model, given in answers.items():
            tokens = sum(answer.reference_tokens for answer in given[name])
            loss = sum(answer.loss * answer.reference_tokens for answer in given[name]) / tokens
            pairs = [(answer.text, question.reference) for answer, question in zip(given[name], asked, strict=True)]
            scores[model] = {
                "loss": loss,
                "perplexity": math.exp(min(loss, 80.0)),
                "token_f1": mean([token_f1(*pair) for pair in pairs]),
            }
            if embed:
                scores[model]["cosine"] = mean([cosine(embed(left), embed(right)) for left, right in pairs])
        rows = [
            {
                "id": q.id,
                "question": q.prompt[-1]["content"],
                "reference": q.reference,
                **{model: asdict(answers[model][name][i]) for model in answers},
            }
            for i, q in enumerate(asked)
        ]
        summary[name] = {"questions": len(asked), "scores": scores, "rows": rows}
    return summary


def load(trained: Trained, tuned: bool):
    """(model, tokenizer) on the best device here; BF16 where the device computes it, else FP32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "xpu" if torch.xpu.is_available() else "cpu"
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    source = trained.output_dir if tuned and not trained.adapter else trained.base_model
    tokenizer = AutoTokenizer.from_pretrained(trained.base_model, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="eager")
    if tuned and trained.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, trained.output_dir).merge_and_unload()
    return model.to(device).eval(), tokenizer


def ask(loaded, questions: list[Question], progress: Callable[[int, int], None]) -> Iterator[Answer]:
    """Answers in the order of `questions`, a batch at a time."""
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        texts = generate(*loaded, batch)
        for question, text in zip(batch, texts, strict=True):
            loss, tokens = reference_loss(*loaded, question)
            yield Answer(question.id, text, loss, tokens)
        progress(start + len(batch), len(questions))


def prompt_ids(tokenizer, question: Question) -> list[int]:
    chat = tokenizer.apply_chat_template(list(question.prompt), add_generation_prompt=True, return_dict=True)
    return chat["input_ids"]


def generate(model, tokenizer, batch: list[Question]) -> list[str]:
    """Greedy answers; a prompt is padded on the left, so that all of a batch end at the same place."""
    import torch

    prompts = {"input_ids": [prompt_ids(tokenizer, question) for question in batch]}
    padded = tokenizer.pad(prompts, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        out = model.generate(
            **padded,
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    answers = out[:, padded["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


def reference_loss(model, tokenizer, question: Question) -> tuple[float, int]:
    """(nats per token, tokens) of the reference answer and the tokens that end its turn."""
    import torch

    prompt = prompt_ids(tokenizer, question)
    messages = [*question.prompt, {"role": "assistant", "content": question.reference}]
    whole = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    ids = torch.tensor([whole], device=model.device)
    with torch.inference_mode():
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
    loss = torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :])
    return loss.item(), len(whole) - len(prompt)


def embedder() -> Callable[[str], list[float]] | None:
    """Mean of wordllama's static word vectors (MIT, 16 MB inside its wheel), or None where it is not installed.

    Its two data files are read directly: the package's own loader asks a hub.
    """
    import importlib.util

    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    weights, vocabulary = sorted(folder.rglob("*256.safetensors")), sorted(folder.rglob("*tokenizer*.json"))
    if not weights or not vocabulary:
        return None
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    table = next(iter(load_file(weights[0]).values()))
    tokenizer = Tokenizer.from_file(str(vocabulary[0]))
    tokenizer.no_padding()

    def embed(text: str) -> list[float]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return table[ids].astype("float32").mean(axis=0).tolist() if ids else [0.0] * table.shape[1]

    return embed
