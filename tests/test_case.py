"""A recipe joined with its model, its machine and its dataset."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from compiler.base_model import find_model
from compiler.case import find_dataset, find_machine, resolve
from compiler.facts import gpus, models
from compiler.problems import WorldProblem
from compiler.recipe import Recipe, Target

LLAMA = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
TOKENIZER = {
    "chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}",
    "eos_token": {"content": "<|im_end|>", "special": True},
    "pad_token": "<pad>",
}


def recipe(**changes: object) -> Recipe:
    value = {
        "name": "demo",
        "base_model": "google/gemma-2-2b-it",
        "targets": {"dev": {"gpu": "rtx-3090-ti", "count": 2, "vram_budget": "8 GiB"}},
        "dataset": {"sources": [{"kind": "files", "path": "docs"}], "generator": {"model": "embedded"}},
    }
    return Recipe.model_validate(value | changes)


def machine(**target: object) -> object:
    return find_machine(Target.model_validate(target))


def test_a_budget_is_what_the_recipe_says_or_all_that_is_usable() -> None:
    assert machine(gpu="rtx-3090-ti", vram_budget="8 GiB").budget_bytes == 8 * 2**30
    whole = machine(gpu="rtx-3090-ti")
    assert whole.budget_bytes == whole.vram_bytes == gpus()["rtx-3090-ti"].vram_bytes


def test_the_whole_box_is_clipped_to_what_the_driver_gives() -> None:
    asked = machine(gpu="rtx-3090-ti", vram_budget="24 GiB")
    assert asked.budget_bytes == asked.vram_bytes < 24 * 2**30


def test_a_cpu_has_the_ram_that_is_stated() -> None:
    assert machine(gpu="cpu", ram_budget="8 GiB").budget_bytes == 8 * 2**30
    assert machine(gpu="cpu", host_ram="64 GiB").budget_bytes == 48 * 2**30
    with pytest.raises(WorldProblem, match="ram_budget"):
        machine(gpu="cpu")


def test_every_card_of_the_catalogue_makes_a_machine() -> None:
    for name, gpu in gpus().items():
        stated = {"ram_budget": "8 GiB"} if gpu.backend == "cpu" else {}
        made = machine(gpu=name, **stated)
        assert made.vram_bytes > 0 and made.backend == gpu.backend


def test_a_card_without_bf16_has_its_fp16_rate() -> None:
    assert machine(gpu="t4").bf16_tflops == gpus()["t4"].fp16_tflops


@pytest.mark.parametrize(
    ("more", "flash", "capability"),
    [({}, True, "sm_80"), ({"bf16": False}, False, "sm_75"), ({"capability": "sm_90a"}, True, "sm_90a")],
)
def test_a_described_card_has_what_its_capability_has(more: dict, flash: bool, capability: str) -> None:
    card = {"name": "x", "backend": "cuda", "vram": "80 GiB", "bf16_tflops": 312, "bandwidth_gb_s": 2039}
    made = machine(gpu=card | more)
    assert (made.flash_attention_2, made.tf32, made.capability) == (flash, flash, capability)
    assert made.vram_bytes == 80 * 2**30


def test_an_unknown_target_is_named_with_those_there_are() -> None:
    with pytest.raises(WorldProblem, match=r"no target `cpu`\n  fix: name one of dev"):
        resolve(recipe(), "cpu")


def test_without_a_built_dataset_lengths_are_assumed_and_said_to_be() -> None:
    facts = find_dataset(recipe())
    assert (facts.rows, facts.eval_rows, facts.measured, facts.sha256) == (10_000, 200, False, None)
    assert facts.train_path == "generated/demo/dataset/train.csv"
    recall = recipe().model_dump()["dataset"] | {"pairs": {"unique": 50, "profile": "recall"}}
    assert find_dataset(recipe(dataset=recall)).rows == 500


def test_a_recipe_without_a_dataset_can_be_resolved() -> None:
    case = resolve(recipe(dataset=None), "dev")
    assert case.dataset.train_path is None and case.dataset.rows > 0


def test_a_built_dataset_is_measured(tmp_path: Path) -> None:
    folder = tmp_path / "generated" / "demo" / "dataset"
    folder.mkdir(parents=True)
    lock = {
        "rows": 321,
        "eval_rows": 12,
        "mean_tokens": 99.5,
        "p99_tokens": 200,
        "max_tokens": 240,
        "train_sha256": "ab" * 32,
        "length_histogram": [[128, 300], [64, 21]],
    }
    (folder / "dataset.lock.json").write_text(json.dumps(lock))
    facts = find_dataset(recipe(), tmp_path)
    assert facts.measured and facts.sha256 == "ab" * 32
    assert (facts.rows, facts.eval_rows, facts.max_tokens) == (321, 12, 240)
    assert facts.length_histogram == ((64, 21), (128, 300))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"rows": "many"}', '{"rows": 1, "length_histogram": 3}'])
def test_a_damaged_lock_is_said_to_be(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "generated" / "demo" / "dataset"
    folder.mkdir(parents=True)
    (folder / "dataset.lock.json").write_text(text)
    with pytest.raises(WorldProblem, match="is damaged"):
        find_dataset(recipe(), tmp_path)


def test_a_catalogue_model_needs_no_disk_and_no_network() -> None:
    for name in models():
        model = find_model(name)
        assert model.architecture.parameters.total == models()[name].parameters


def test_a_folder_tells_its_template_and_tokens(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    bare = find_model(str(tmp_path))
    assert (bare.chat_template, bare.end_of_turn, bare.pad_token) == (None, (), None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    model = find_model(str(tmp_path))
    assert (model.chat_template, model.end_of_turn, model.pad_token) == ("tokenizer_default", ("<|im_end|>",), "<pad>")
    assert model.path == str(tmp_path)


def test_a_template_that_writes_the_variable_ends_by_the_eos_token(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    words = {"chat_template": "{{ m.content + eos_token }}", "eos_token": "<end>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(words))
    assert find_model(str(tmp_path)).end_of_turn == ("<end>",)


def test_the_hugging_face_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = tmp_path / "hub" / "models--acme--tiny"
    snapshot = model / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123456789abcdef")
    (snapshot / "config.json").write_text(json.dumps(LLAMA))
    assert find_model("acme/tiny").architecture.vocab_size == 1000


class Hub(BaseHTTPRequestHandler):
    """A hub on loopback; `answers` maps a path to (status, body)."""

    answers: dict[str, tuple[int, bytes]]
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        status, body = self.answers.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", "not-a-real-one")
    handler = type("ThisHub", (Hub,), {"answers": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_hub_is_asked_once(hub: type[Hub]) -> None:
    hub.answers["/acme/tiny/resolve/main/config.json"] = (200, json.dumps(LLAMA).encode())
    hub.answers["/acme/tiny/resolve/main/tokenizer_config.json"] = (200, json.dumps(TOKENIZER).encode())
    assert find_model("acme/tiny").end_of_turn == ("<|im_end|>",)
    asked = len(hub.asked)
    assert hub.asked[0][1] == "Bearer not-a-real-one"
    assert find_model("acme/tiny").end_of_turn == ("<|im_end|>",)
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("status", "told"), [(404, "the hub knows no"), (401, "gated, private, or misspelled"), (500, "answered 500")]
)
def test_what_the_hub_refuses_is_told_and_not_kept(hub: type[Hub], status: int, told: str) -> None:
    hub.answers["/acme/tiny/resolve/main/config.json"] = (status, b"")
    with pytest.raises(WorldProblem, match=told):
        find_model("acme/tiny")
    assert not Path(".cache").exists()


def test_what_the_hub_sends_may_be_no_json(hub: type[Hub]) -> None:
    hub.answers["/acme/tiny/resolve/main/config.json"] = (200, b"<html>")
    with pytest.raises(WorldProblem, match="is not JSON"):
        find_model("acme/tiny")
    assert not Path(".cache").exists()
    hub.answers["/acme/tiny/resolve/main/config.json"] = (200, json.dumps(LLAMA).encode())
    hub.answers["/acme/tiny/resolve/main/tokenizer_config.json"] = (200, b"<html>")
    assert find_model("acme/tiny").chat_template is None


def test_a_hub_that_cannot_be_reached(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WorldProblem, match="cannot be reached"):
        find_model("acme/tiny")


@pytest.mark.parametrize(
    "name", ["a/../b", "../x", "acme/tiny/three", "acme/ti ny", "acme", "~/nothing", "/nothing", ""]
)
def test_a_name_that_is_no_model_touches_neither_disk_nor_hub(hub: type[Hub], name: str) -> None:
    with pytest.raises(WorldProblem):
        find_model(name)
    assert hub.asked == []
    assert not Path(".cache").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("~nobody-here/x", "there is no folder"),
        ("https://huggingface.co/google/gemma-2-2b-it", "write `google/gemma-2-2b-it`"),
        ("https://huggingface.co/google/gemma-2-2b-it/tree/main", "write `google/gemma-2-2b-it`"),
    ],
)
def test_what_is_no_name_of_a_model_is_told(name: str, told: str) -> None:
    with pytest.raises(WorldProblem, match=told):
        find_model(name)


def test_a_config_json_that_is_too_large_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"x": "a" * 2**23}))
    with pytest.raises(WorldProblem, match="larger than 8 MiB"):
        find_model(str(tmp_path))
