"""The whole dataset: read -> chunk -> ask -> split -> variants -> write. Stages are functions over rows; this module
pairs them with storage.

Nothing but the ledger of answers and the results lie on disk: a run that was killed starts again from its inputs and
finds every answer it paid for, so it asks nothing twice. The lock is written last; its presence says that the dataset
is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path

from dataset_builder.models import Models
from dataset_builder.problems import BuildProblem
from dataset_builder.process import CallsProcess
from dataset_builder.progress import Quiet, Report
from dataset_builder.prompting import prompts_digest
from dataset_builder.review import decisions
from dataset_builder.review.decisions import Decisions
from dataset_builder.rows import Chunk, Document, Dropped, Row, digest
from dataset_builder.runner import HERE, Runner
from dataset_builder.shelf import Shelf
from dataset_builder.spec import Dataset

NO_ROW_MODULES = frozenset((
    "__init__", "calls", "embedded", "engine", "estimate", "foresight", "jobs", "ledger", "limits", "liveness",
    "loading", "models", "money", "on_ray", "opening", "problems", "process", "progress", "runner", "serving", "shelf",
    "spec", "strict", "transport", "wire",
    "formats", "html_blocks", "html_code", "html_main", "html_meta", "html_tables", "licences", "markdown", "materials",
    "readers", "rst", "scrub",
))  # fmt: skip
"""What decides no row, given documents and replies. A change in any other module makes finished datasets stale, never
the ledger; the second group decides documents, whose own digests are compared."""
REVIEW_ROW_MODULES = ("agreement", "decisions", "records", "settle")
"""Those of `review/` that decide what a build writes; the page is none of them."""
STAGES = ("read", "chunk", "ask", "split", "variants", "write")
LOCK = "dataset.lock.json"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the dataset of one recipe lives."""

    root: Path
    recipe: str

    @property
    def folder(self) -> Path:
        return self.root / "generated" / self.recipe / "dataset"

    @property
    def cache(self) -> Path:
        """For what is needed while a build runs."""
        return self.root / ".cache"

    @property
    def ledger(self) -> Path:
        return self.root / ".cache" / "ledgers" / f"{self.recipe}.sqlite"

    def relative(self, name: str) -> str:
        return f"generated/{self.recipe}/dataset/{name}"


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did."""

    stage: str
    """The last stage that ran; `unchanged` where there was nothing to do."""
    counts: dict[str, int] = field(default_factory=dict)
    short: tuple[str, ...] = ()
    """How many rows or pairs are missing, and why; empty where the targets were reached."""
    changes: tuple[str, ...] = ()
    """What differs from the dataset that lay there before."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What the stages after reading need of it."""

    documents: Sequence[Document]
    left_out: Sequence[Dropped]
    existing: Sequence[Row]
    chunks: Sequence[Chunk]
    stamp: dict[str, str]
    decisions: Decisions
    """What people decided in `recipe review`."""
    counts: dict[str, int]
    """Added to as the stages go."""


def build(dataset: Dataset, place: Place, report: Report | None = None, until: str = "write",
          tokenizer: Path | None = None, shard: tuple[int, int] = (1, 1), on: Runner = HERE,
          process: CallsProcess | None = None) -> Result:  # fmt: skip
    """Builds or resumes the dataset of a recipe. `tokenizer`: folder with the base model's tokenizer.json, for lengths;
    `on`: where what needs no model runs; `process`: makes the calls (None: a thread of this one).

    With `shard` (i, n) only the i-th of n parts of the chunks is asked: the answers then lie in the ledger, and nothing
    is written. Raises BuildProblem where a source, the endpoint or the disk is at fault.
    """
    report = report or Quiet()
    asking = until not in ("read", "chunk") and not _seems_current(dataset, place, tokenizer)
    with Models(dataset, place.ledger, place.cache, report, process) as models:
        if asking:
            models.begin()
        elif process is not None:
            process.end()  # if it was begun on suspicion
        return _read_and_ask(dataset, place, report, until, tokenizer, shard, on, models)


def _read_and_ask(dataset: Dataset, place: Place, report: Report, until: str, tokenizer: Path | None,
                  shard: tuple[int, int], on: Runner, models: Models) -> Result:  # fmt: skip
    documents, left_out = read(dataset, place, report, on)
    existing, refused = _existing(dataset, place)
    left_out += refused
    decided = decisions.load(place.folder / decisions.FILE)
    stamp = stamp_of(dataset, documents, tokenizer) | {
        "existing_digest": digest(*(row.id for row in existing)), "review_digest": decisions.digest_of(decided)
    }  # fmt: skip
    if until == "write" and shard == (1, 1) and is_current(place, stamp):
        return Result("unchanged")
    counts = {"documents": len(documents)} | ({"existing rows": len(existing)} if existing else {})
    if until == "read":
        return Result("read", counts)
    chunks = chunks_of(dataset, documents, place, on)
    counts["chunks"] = len(chunks)
    if until == "chunk":
        return Result("chunk", counts)
    work = _Work(documents, left_out, existing, chunks, stamp, decided, counts)
    return _from_chunks(dataset, place, report, until, tokenizer, shard, work, on, models)


def _from_chunks(dataset: Dataset, place: Place, report: Report, until: str, tokenizer: Path | None,
                 shard: tuple[int, int], work: _Work, on: Runner, models: Models) -> Result:  # fmt: skip
    # the generator's side is imported here: a run with nothing to do must not pay for it
    from dataset_builder import changes, coverage, split, variants, views
    from dataset_builder.ask import ask_pairs, write_views
    from dataset_builder.ledger import in_shard
    from dataset_builder.review.settle import settle
    from dataset_builder.sources.hf import shares

    counts = work.counts
    total = dataset.pairs.rows
    sections = cache(lambda: coverage.items(work.chunks, on, place.cache))
    engine, bench = models.generator, models.bench(sections)
    settled = settle(work.decisions, (one for one in work.chunks if in_shard(one.id, *shard)), work.documents)
    asked = ask_pairs(engine, dataset, work.chunks, bench, settled, sections=sections, on=on, shard=shard,
                      then_views=until not in ("ask", "split") and shard == (1, 1))  # fmt: skip
    counts["unique pairs"] = len(asked.pairs)
    if until == "ask" or shard != (1, 1):
        return Result("ask", counts, asked.short)
    parts = split.split(asked.pairs, _recall(dataset), dataset.evaluation.transfer, dataset.seed)
    counts |= {"trained pairs": len(parts.train), "held-out pairs": len(parts.transfer)}
    if until == "split":
        return Result("split", counts, asked.short)
    known = views.corpus(work.chunks, on, place.cache)
    wordings = variants.Wordings(parts.train, known)
    unwritten = write_views(engine, asked.path, parts.train, dataset.pairs, wordings)
    spent = models.ledger.totals()
    models.close()
    made = variants.rows(parts, known, total, dataset.pairs.not_in_docs, dataset.system_prompt, wordings)
    made, lacking = variants.with_existing(made, work.existing, shares(dataset))
    split.check(made.train, made.recall, made.transfer)
    counts |= {"rows": len(made.train), "recall questions": len(made.recall), "transfer questions": len(made.transfer)}
    counts |= {"existing rows": existing} if (existing := sum(row.view == "existing" for row in made.train)) else {}
    short = (*asked.short, *_short_rows(total - made.missing, total), *lacking, *_short_evals(made, dataset))
    if until == "variants":
        return Result("variants", counts, short)
    before = changes.former(place.folder, LOCK)
    since = changes.sentences(before, work.stamp, work.documents, (*made.train, *made.transfer))
    _write(dataset, place, asked, made, unwritten, spent, short, since, work, tokenizer)
    return Result("write", counts, short, (*since, *asked.review.sentences()))


def read(dataset: Dataset, place: Place, report: Report, on: Runner = HERE) -> tuple[Sequence[Document], list[Dropped]]:
    """The documents, and those that were left out."""
    from dataset_builder.materials import read_sources
    from dataset_builder.sources.common import SourceReport

    seen = SourceReport(progress=report.say)
    return read_sources(dataset, place.root, place.recipe, seen, on=on), seen.dropped


def _existing(dataset: Dataset, place: Place) -> tuple[list[Row], list[Dropped]]:
    """Rows of `hf` sources, which join the training rows as they are, on top of `pairs.total`; and what was no row."""
    if not any(source.kind == "hf" for source in dataset.sources):
        return [], []
    from dataset_builder.sources.common import SourceReport
    from dataset_builder.sources.hf import read_rows

    seen = SourceReport()
    return read_rows(dataset, place.root, seen), seen.dropped


def stamp_of(dataset: Dataset, documents: Sequence[Document], tokenizer: Path | None) -> dict[str, str]:
    """What the dataset is made from, in digests. Who serves the model (address, key, concurrency, patience, cap)
    bears on nothing and is left out."""
    spec = dataset.model_dump(mode="json")
    for part in (spec["generator"], spec["judge"] or {}):
        for name in ("api_base", "api_key_env", "max_cost_usd", "max_concurrency", "timeout_s"):
            part.pop(name, None)
    file = tokenizer / "tokenizer.json" if tokenizer else None
    return {
        "spec_digest": digest(json.dumps(spec, sort_keys=True)),
        "documents_digest": digest(
            *(text for one in documents for text in (one.origin, one.sha256, one.licence or ""))
        ),
        "prompts_digest": prompts_digest(),
        "builder_digest": _builder_digest(),
        "tokenizer_digest": _sha256(file)[:16] if file and file.is_file() else "",
    }


def _builder_digest() -> str:
    here = Path(__file__).parent
    modules = sorted(path for path in here.glob("*.py") if path.stem not in NO_ROW_MODULES)
    modules += [here / "review" / f"{name}.py" for name in REVIEW_ROW_MODULES]
    return digest(*(text for path in modules for text in (path.stem, path.read_text(encoding="utf-8"))))


def is_current(place: Place, stamp: dict[str, str]) -> bool:
    """Whether a whole dataset lies there that was made from exactly this, with all its files untouched."""
    try:
        lock = json.loads((place.folder / LOCK).read_text(encoding="utf-8"))
        files = lock["files"].items()
        same = all(lock.get(key) == value for key, value in stamp.items())
        return same and all(_sha256(place.folder / name) == sha256 for name, sha256 in files)
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _seems_current(dataset: Dataset, place: Place, tokenizer: Path | None) -> bool:
    """Whether all but the documents is as the lock says: then there is probably nothing to ask."""
    try:
        lock = json.loads((place.folder / LOCK).read_text(encoding="utf-8"))
        stamp = stamp_of(dataset, (), tokenizer)
        return all(lock.get(key) == value for key, value in stamp.items() if key != "documents_digest")
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def chunks_of(dataset: Dataset, documents: Sequence[Document], place: Place, on: Runner = HERE) -> Sequence[Chunk]:
    """All documents as chunks. Raises BuildProblem where they hold no text."""
    from dataset_builder.chunks import chunk

    found: Shelf[Chunk] = Shelf(folder=place.cache)
    for some in on.map(partial(chunk, max_tokens=dataset.chunk_tokens), documents):
        found.extend(some)
    if not found:
        raise BuildProblem(
            "The documents hold no text to ask about.\n  fix: check dataset.sources: path, include, exclude"
        )
    return found


def _recall(dataset: Dataset) -> int:
    wanted = dataset.evaluation.recall
    return min(200, max(1, dataset.pairs.unique // 10)) if wanted is None else wanted


def _short_rows(found: int, wanted: int) -> tuple[str, ...]:
    if found >= wanted:
        return ()
    return (
        f"{found:,} of {wanted:,} rows, {wanted - found:,} missing: the wordings of each pair that passed the "
        "checks are used up; ask for more unique pairs or a smaller total",
    )


def _short_evals(made, dataset: Dataset) -> tuple[str, ...]:
    """What the held-out questions lack of what was asked for."""
    found, wanted = len(made.recall), _recall(dataset)
    short = (
        (
            f"{found:,} of {wanted:,} recall questions, {wanted - found:,} missing: a wording is held out of a trained "
            f"pair that has three and a reworded one; ask for more unique pairs or lower dataset.evaluation.recall",
        )
        if found < wanted
        else ()
    )
    if dataset.evaluation.transfer and not made.transfer:
        short += ("no transfer questions: too few sections have pairs, or they share their quotes; add sources or set "
                  "dataset.evaluation.transfer to 0",)  # fmt: skip
    return short


def _write(dataset: Dataset, place: Place, asked, made, unwritten: Sequence[Dropped], spent, short: Sequence[str],
           since: Sequence[str], work: _Work, tokenizer: Path | None) -> None:  # fmt: skip
    """All files, each whole or not at all, the lock last; what is written is read back and must be trainable."""
    from dataset_builder import card, coverage, lengths, places, table
    from dataset_builder.materials import write_whole
    from dataset_builder.review import agreement, records

    tokens = lengths.lengths(made.train, tokenizer)
    held = lengths.lengths(made.recall, tokenizer).longest if made.recall else 0
    dropped = (*work.left_out, *asked.dropped, *unwritten, *made.dropped)
    held_out = {row.parent for row in made.transfer}
    found = list(records.records(asked.pairs, held_out, asked.review, asked.refused, asked.judged))
    agreed = agreement.agreement(found, work.decisions).sentences()
    notes = (*since, *asked.notes, *agreed, *(f"Short of the target: {text}." for text in short))
    texts = {
        "train.csv": table.csv_text(made.train),
        "eval_recall.csv": table.csv_text(made.recall),
        "eval_transfer.csv": table.csv_text(made.transfer),
        "card.md": card.card_text(place.recipe, dataset, asked.pairs, made, dropped, tokens, asked.path, spent, notes),
        "coverage.md": coverage.coverage_text(
            asked.sections, asked.pairs, asked.dropped, dataset.pairs.unique, dataset.seed
        ),
        "evidence.jsonl": places.evidence_text(asked.pairs, work.documents, place.root),
        "dropped.jsonl": "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in dropped),
        **records.texts(found),
    }
    (place.folder / LOCK).unlink(missing_ok=True)
    for name, text in texts.items():
        write_whole(place.folder / name, text)
    for name in ("train.csv", "eval_recall.csv", "eval_transfer.csv"):
        proof = table.check_table(place.folder / name)
        if proof.problems:
            raise BuildProblem(
                f"{place.relative(name)} cannot be trained on: {proof.problems[0]} ({len(proof.problems)} problems)"
            )
    write_whole(place.folder / LOCK, _lock_text(place, made, tokens, held, since, work, list(texts)))


def _lock_text(place: Place, made, tokens, held: int, since: Sequence[str], work: _Work, names: list[str]) -> str:
    from dataset_builder import changes

    files = {name: _sha256(place.folder / name) for name in names}
    lock = {
        "rows": len(made.train),
        "eval_rows": len(made.recall),
        "transfer_rows": len(made.transfer),
        "mean_tokens": tokens.mean,
        "p99_tokens": tokens.p99,
        "max_tokens": tokens.longest,
        "eval_max_tokens": held,
        "length_histogram": [list(entry) for entry in tokens.histogram],
        "lengths": tokens.how,
        "train_sha256": files["train.csv"],
        "train_path": place.relative("train.csv"),
        "eval_path": place.relative("eval_recall.csv"),
        "transfer_path": place.relative("eval_transfer.csv"),
        **work.stamp,
        "counts": work.counts,
        "files": files,
        "changes": list(since),
        "documents": changes.sha256_of(work.documents),
    }
    return json.dumps(lock, indent=1) + "\n"
