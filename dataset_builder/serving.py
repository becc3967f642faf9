"""The process that makes the calls: litellm, the event loop, limits, money and commits; started by `process.py`.

It lives as long as its builder. When that is gone, however it ended, it sends nothing more, keeps what is on its way
for as long as a stopped run would wait for it, and ends.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataset_builder.loading import warm

SLACK_SECONDS = 15.0
"""On top of the patience for answers on their way, before it ends whatever still runs."""


def main(end: int) -> None:
    """Body of the process; `end`: its end of the socket."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The builder decides. A function rather than SIG_IGN, which processes started from here would inherit.
        signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    # litellm makes a coroutine in one step and awaits it in another; a call that is cancelled in between warns
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    warm()

    from dataset_builder.wire import Wire

    wire = Wire(socket.socket(fileno=end))
    callers: dict[int, _Served] = {}
    while (message := wire.receive()) is not None:
        what, number, *rest = message
        if what == "open":
            callers[number] = _Served(wire, number, *rest)
        else:
            callers[number].told.put((what, *rest))
    for caller in callers.values():
        caller.alone = True
        caller.told.put(("close", True))
    for caller in callers.values():
        if caller.caller is not None:  # else nothing was asked yet
            caller.thread.join(caller.patience.drain_s + SLACK_SECONDS)
    os._exit(0)  # threads of libraries must not hold it up; what counts is committed


class _Served:
    """One model's caller, and a thread that tells it what the builder says, in that order."""

    def __init__(self, wire, number: int, generator: dict, ledger: str, patience, cache_dir: str) -> None:
        self.wire, self.number, self.patience = wire, number, patience
        self.told: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self.caller = None
        self.alone = False
        """The builder is gone."""
        self._runs: dict[int, _Sink] = {}
        self.thread = threading.Thread(target=self._serve, args=(generator, ledger, cache_dir), daemon=True)
        self.thread.start()

    def _serve(self, generator: dict, ledger: str, cache_dir: str) -> None:
        try:
            from dataset_builder.ledger import Ledger
            from dataset_builder.opening import open_caller
            from dataset_builder.spec import Generator

            with Ledger(ledger) as book:
                self.caller = open_caller(Generator.model_validate(generator), book, self.patience, Path(cache_dir))
                self._say("opened", self.caller.where, self.caller.priced)
                while self._obey(*self.told.get()):
                    pass
            self._say("close", None)
        except Exception as wrong:
            self._say("failed", _as_problem(wrong))

    def _obey(self, what: str, *rest: Any) -> bool:
        """False: that was the last."""
        from dataset_builder.wire import unpacked

        if self.alone and what != "close":
            return True
        if what == "submit":
            run, values = rest
            self.caller.submit(unpacked(values), self._sink(run))
        elif what == "foresee":
            self.caller.foresee([unpacked(values) for values in rest[0]])
        elif what == "call_off":
            self.caller.call_off()
        elif what == "forget":
            self.caller.forget(self._sink(rest[0]))
            del self._runs[rest[0]]
        elif what == "drain":
            self.caller.drain(rest[0])
            self._say("drain", None)
        elif what == "context":
            self._beside(lambda: self._say("context", self.caller.context_tokens()))
        elif what == "close":
            self.caller.close(rest[0])
            return False
        return True

    def _beside(self, work: Callable[[], None]) -> None:
        """It may take seconds, and requests wait behind it."""
        threading.Thread(target=work, daemon=True).start()

    def _sink(self, run: int) -> _Sink:
        return self._runs.setdefault(run, _Sink(self, run))

    def _say(self, what: str, *rest: Any) -> None:
        self.wire.send(what, self.number, *rest)


class _Sink:
    """The inbox of a run that lives in the builder."""

    def __init__(self, served: _Served, run: int) -> None:
        self._served, self._run = served, run

    def put(self, ended) -> None:
        from dataset_builder.wire import portable

        served = self._served
        served.wire.send("ended", served.number, self._run, portable(ended), served.caller.standing())


def _as_problem(wrong: Exception) -> Exception:
    from dataset_builder.jobs import Ended
    from dataset_builder.wire import portable

    return portable(Ended("", end=wrong)).end
