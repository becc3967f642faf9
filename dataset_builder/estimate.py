"""What a build will take, from a dozen real calls: the build's own requests, so their answers are not lost."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import islice
from math import ceil

from dataset_builder import answer_first, coverage, judge, money, pairs
from dataset_builder.ask import LEAST_KEPT, PATH_NOTE, TURNS, turn, view_names
from dataset_builder.build import Place, chunks_of, read
from dataset_builder.engine import Engine
from dataset_builder.ledger import Request
from dataset_builder.models import Models
from dataset_builder.probe import probe
from dataset_builder.process import CallsProcess
from dataset_builder.progress import Report
from dataset_builder.rows import Chunk, Dropped, Grounded
from dataset_builder.spec import Dataset

CALLS = 12
"""Real calls of the sample, the probe's apart."""
LEAST_YIELD = 0.25
"""Pairs a chunk, as the build reckons at the least."""


def estimate_lines(dataset: Dataset, place: Place, report: Report, process: CallsProcess | None = None) -> list[str]:
    """Lines for a person: calls, tokens, cost and time of each stage, as ranges. Raises BuildProblem as a build
    does."""
    with Models(dataset, place.ledger, place.cache, report, process) as models:
        models.begin()
        chunks = chunks_of(dataset, read(dataset, place, report)[0], place)
        engine = models.generator
        capable = probe(dataset.generator, engine)
        if capable.path == "answer-first":
            (sample, planned), failed = _questions(dataset, chunks, place), ""
        else:
            sample, planned, failed = _pairs(dataset, chunks, place, engine, capable.path)
        estimates = money.estimate(engine, sample, planned)
        estimates += _judge(dataset, chunks, models, place)
    return [PATH_NOTE.format(why=capable.why + failed), *money.sentences(estimates)]


def _judge(dataset: Dataset, chunks: Sequence[Chunk], models: Models, place: Place) -> list[money.StageEstimate]:
    """What the judge will take: its trial, and every pair once. Its sample are the first canaries of the trial."""
    engine = models.judge()
    if engine is None:
        return []
    birds = judge.canaries(coverage.items(chunks, folder=place.cache).all(), dataset.seed)
    sample = [judge.request(one.question, one.answer, one.chunk, dataset.judge, one) for one in birds[-CALLS:]]
    return money.estimate(engine, sample, {"judge": len(birds) + dataset.pairs.unique * 12 // 10}, judge.verdict)


def _questions(dataset: Dataset, chunks: Sequence[Chunk], place: Place) -> tuple[list[Request], dict[str, int]]:
    sections = coverage.items(chunks, folder=place.cache)
    facts = islice(coverage.deal(sections, dataset.seed), CALLS)
    sample = [answer_first.request(answer_first.Wording(*one), dataset.generator) for one in facts]
    # facts without a template may be asked twice, and about every tenth fails its checks
    return sample, {"questions": min(sections.facts, dataset.pairs.unique * 13 // 10)}


def _pairs(
    dataset: Dataset, chunks: Sequence[Chunk], place: Place, engine: Engine, path: str
) -> tuple[list[Request], dict[str, int], str]:
    """The sample, the calls of each stage and what there is to say of the way: as many chunks as it takes at the yield
    of the first ones; a model that fails on them will only word questions."""
    first = heapq.nsmallest(CALLS - 4, chunks, key=lambda chunk: turn(chunk, dataset.seed))
    plans = [pairs.Plan(chunk, pairs.wanted_pairs(chunk)) for chunk in first]
    sample = [pairs.pairs_request(plan, dataset.generator, path) for plan in plans]
    tried = [one for made in _verified(engine, sample) for one in made]
    good = [one for one in tried if isinstance(one, Grounded)]
    if len(good) < LEAST_KEPT * len(tried):
        failed = f", but on these documents {len(good)} of {len(tried)} pairs passed their checks"
        return *_questions(dataset, chunks, place), failed
    calls = ceil(dataset.pairs.unique / max(LEAST_YIELD, len(good) / len(first)))
    planned = {"pairs": min(len(chunks) * TURNS, calls)}
    if good and dataset.pairs.rows > dataset.pairs.unique:
        planned["variants"] = dataset.pairs.unique
        sample += [
            pairs.views_request(one, view_names(one, dataset.pairs), dataset.generator, path) for one in good[:4]
        ]
    return sample, planned, ""


def _verified(engine: Engine, sample: list[Request]) -> list[list[Grounded | Dropped]]:
    """What the checks say of each candidate in the sample's own answers, in the sample's order."""
    found: dict[int, list[Grounded | Dropped]] = {}
    for outcome in engine.run(sample, pairs.parse_pairs, total=len(sample)):
        chunk = outcome.request.about.chunk
        found[id(outcome.request.about)] = [pairs.verify(candidate, chunk) for candidate in outcome.value or ()]
    return [found[id(request.about)] for request in sample]
