"""The models of one build: the generator and the judge, with the ledger that they share and the process that asks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dataset_builder.progress import Report
from dataset_builder.spec import Dataset, Generator

if TYPE_CHECKING:
    from pathlib import Path

    from dataset_builder.engine import Engine
    from dataset_builder.judge import Bench
    from dataset_builder.ledger import Ledger
    from dataset_builder.process import CallsProcess
    from dataset_builder.sections import Sections


class Models:
    """Opened one by one when they are needed; `close`, or the end of the block, closes them all."""

    def __init__(self, dataset: Dataset, ledger: Path, cache_dir: Path, report: Report,
                 process: CallsProcess | None) -> None:  # fmt: skip
        self._dataset, self._path, self._cache_dir, self._report = dataset, ledger, cache_dir, report
        self._process = process
        self._open = ExitStack()
        self._ledger: Ledger | None = None
        self._generator: Engine | None = None

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            from dataset_builder.ledger import Ledger

            self._ledger = self._open.enter_context(Ledger(self._path))
        return self._ledger

    @property
    def generator(self) -> Engine:
        if self._generator is None:
            self._generator = self._engine(self._dataset.generator)
        return self._generator

    def begin(self) -> None:
        """To be called as soon as it is likely that there will be calls: loads litellm beside reading, and lets the
        generator answer what is asked of every model, which depends on no document."""
        if self._process is None:
            from dataset_builder.loading import warm

            warm()
            return
        self._process.begin()
        if not self._dataset.generator.is_embedded:  # it may have to be downloaded first
            from dataset_builder import probe

            self.generator.foresee(probe.first_requests(self._dataset.generator))

    def bench(self, sections: Callable[[], Sections]) -> Bench | None:
        """The recipe's judge after its trial; None without one. Its canaries come from all chunks, whichever shard
        asks."""
        if self._dataset.judge is None:
            return None
        from dataset_builder import judge

        engine = self._engine(self._dataset.judge)
        bench = judge.Bench(engine, judge.trial(engine, judge.canaries(sections().all(), self._dataset.seed)))
        self._report.say(bench.note)
        return bench

    def judge(self) -> Engine | None:
        """The recipe's judge, untried."""
        return self._engine(self._dataset.judge) if self._dataset.judge else None

    def close(self) -> None:
        """Keeps what is on its way, and lets everything go."""
        self._open.close()

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *why) -> bool | None:
        return self._open.__exit__(*why)

    def _engine(self, model: Generator) -> Engine:
        from dataset_builder.engine import Engine

        engine = Engine(model, self.ledger, self._report, cache_dir=self._cache_dir, process=self._process)
        return self._open.enter_context(engine)
