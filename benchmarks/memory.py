"""Peak memory and time of planning a dataset from many chunks: read, chunk, facts, every request as it would be sent.

The documents are synthetic: sections of about 200 characters of a made-up product's manual, each with an option and
figures of its own, written to a temporary folder first, which is not counted. Then the builder's own code runs in a
fresh process: the `files` source with its copies in raw-materials, chunks, facts and names of all sections, and for
both ways of asking every request with its key, which is what is looked up in the ledger; last coverage.md as text and
what views need to know of the corpus. No model is called. litellm is loaded, as in a build. Seconds are processor time.

    python benchmarks/memory.py [CHUNKS ...]        10,000 100,000 1,000,000
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

A_DOCUMENT = 100
"""Chunks."""
RECIPE = {
    "sources": [{"kind": "files", "path": "docs", "licence": "MIT"}],
    "generator": {"model": "openai/planned", "api_base": "http://127.0.0.1:9/v1"},
    "chunk_tokens": 100,
}
THINGS = ("cache", "mirror", "token", "layer", "index", "digest", "queue", "bucket", "session", "socket", "worker")


def section(number: int, chance: random.Random) -> str:
    """A heading, an option with its default and a sentence."""
    thing, limit = chance.choice(THINGS), chance.randrange(2, 5000)
    return (
        f"## The {thing} {number:x}\n\n"
        f"The option `--{thing}-{number:x}-size` sets the size of the {thing} {number:x} to {limit} entries. "
        f"A {thing} {number:x} keeps its uploads for {limit % 90 + 2} days.\n"
    )


def write_documents(folder: Path, chunks: int) -> None:
    chance = random.Random(0)
    for number in range(0, chunks, A_DOCUMENT):
        path = folder / f"part{number // A_DOCUMENT // 500:04d}" / f"page{number // A_DOCUMENT:07d}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        sections = (section(number + place, chance) for place in range(min(A_DOCUMENT, chunks - number)))
        path.write_text(f"# Quay manual, page {number // A_DOCUMENT}\n\n" + "\n".join(sections), encoding="utf-8")


def plan(root: Path) -> dict[str, float]:
    """Plans everything; counts, seconds of each part, and the peak in MiB after it."""
    from dataset_builder import answer_first, coverage, pairs, views
    from dataset_builder.ask import plans_for, shuffled
    from dataset_builder.build import Place, chunks_of, read
    from dataset_builder.loading import warm
    from dataset_builder.progress import Quiet
    from dataset_builder.spec import Dataset

    figures: dict[str, float] = {}
    begun = time.process_time()

    def note(name: str) -> None:
        nonlocal begun
        figures[f"{name}_s"] = round(time.process_time() - begun, 1)
        figures[f"{name}_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        begun = time.process_time()

    dataset, place = Dataset.model_validate(RECIPE), Place(root, "memory")
    warm()
    documents, _ = read(dataset, place, Quiet())
    note("read")
    chunks = chunks_of(dataset, documents, place)
    note("chunk")
    sections = coverage.items(chunks, folder=place.cache)
    note("facts")
    order = shuffled(chunks, dataset.seed)
    planned = 0
    for one in plans_for(order, 0, None, []):
        planned += len(pairs.pairs_request(one, dataset.generator, "json").key) == 64
    note("pairs")
    questions = 0
    for fact, chunk in coverage.deal(sections, dataset.seed):
        wording = answer_first.Wording(fact, chunk)
        questions += len(answer_first.request(wording, dataset.generator).key) == 64
    note("questions")
    lines = sum(1 for _ in coverage.coverage_text(sections, [], [], dataset.pairs.unique, dataset.seed))
    known = views.corpus(chunks, folder=place.cache)
    absent = sum(not known.holds(f"cache-{number:x}-mode") for number in range(100))
    note("coverage_and_corpus")
    counts = {"documents": len(documents), "chunks": len(chunks), "facts": sections.facts, "sections": len(sections),
              "pair_requests": planned, "question_requests": questions, "lines_of_coverage": lines,
              "absent_names": absent}  # fmt: skip
    return counts | figures


def main() -> None:
    if sys.argv[1:2] == ["--in"]:
        print(json.dumps(plan(Path(sys.argv[2]))))
        return
    for chunks in [int(word.replace(",", "")) for word in sys.argv[1:]] or [10_000, 100_000, 1_000_000]:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".memory-") as folder:
            write_documents(Path(folder) / "docs", chunks)
            done = subprocess.run([sys.executable, __file__, "--in", folder], stdout=subprocess.PIPE, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        seconds = sum(value for name, value in figures.items() if name.endswith("_s"))
        peak = figures["coverage_and_corpus_mib"]
        print(f"{figures['chunks']:,} chunks: {peak} MiB at most, {seconds:.0f} s", figures, flush=True)


if __name__ == "__main__":
    main()
