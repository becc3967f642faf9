"""Messages between the builder and the process that makes its calls: pickled tuples of plain values over a socket.

Both ends are this same program, started by one another; nobody else holds the socket.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
from typing import Any

from dataset_builder.jobs import Ended
from dataset_builder.ledger import Request
from dataset_builder.problems import BuildProblem


class Wire:
    """One end. Several threads may send; one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()
        self._reader = end.makefile("rb")

    def send(self, *message: Any) -> bool:
        """False: nobody is at the other end any more."""
        text = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            with self._lock:
                self._end.sendall(text)
        except OSError:
            return False
        return True

    def receive(self) -> tuple | None:
        """The next message; None: the other end is gone."""
        try:
            return pickle.load(self._reader)
        except (EOFError, OSError, pickle.UnpicklingError):  # it died, perhaps in the middle of a message
            return None

    def hang_up(self) -> None:
        """The other end receives None; safe while another thread receives here, which then does too."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)


def packed(request: Request) -> tuple:
    """The request without what is the builder's own business (`about`)."""
    return (request.model, request.messages, request.schema, request.max_tokens, request.temperature, request.seed,
            request.stage)  # fmt: skip


def unpacked(values: tuple) -> Request:
    return Request(*values)


class CallsFailed(Exception):
    """A bug of ours in the process that makes the calls; the text is its traceback."""


def portable(ended: Ended) -> Ended:
    """As it can be sent: a problem of the world travels as it is, a bug as its traceback."""
    if ended.end is None or isinstance(ended.end, BuildProblem):
        return ended
    import traceback

    return Ended(ended.key, end=CallsFailed("".join(traceback.format_exception(ended.end))))
