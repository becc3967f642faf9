"""A model that answers by a function, in place of an endpoint; everything else of the engine is real."""

import json
from collections.abc import Callable
from contextlib import nullcontext

from dataset_builder.engine import Reply, Request

Answer = Callable[[Request], str]


class Scripted:
    """Install with `Scripted(monkeypatch, answer)`; `asked` holds every request that reached the endpoint."""

    def __init__(self, monkeypatch, answer: Answer) -> None:
        self.asked: list[Request] = []

        async def ask(_endpoint, request: Request) -> tuple[Reply, dict]:
            self.asked.append(request)
            return Reply(request.key, answer(request), "stop", 10, 5, None, 0.01, request.model, request.max_tokens), {}

        monkeypatch.setattr("dataset_builder.transport.Endpoint.ask", ask)
        monkeypatch.setattr("compiler.commands.data._calls", nullcontext)  # the calls are made here
        monkeypatch.setattr("dataset_builder.opening.price_of", lambda _model: None)


def sentence_of(request: Request) -> str:
    """The sentence that an answer-first request asks a question for."""
    return request.messages[-1][1].removeprefix("Sentence: ").rsplit("\nThe question", 1)[0]


def weak(request: Request) -> str:
    """As a tiny model: no JSON, no quotes; for a sentence a question that is sometimes good."""
    if request.stage == "questions":
        words = sentence_of(request).split()
        return f"What about {words[0]} {words[1]} {words[-1]}?" if len(words) % 2 else "Sure, here it is"
    return "1"


def pairs_json(*pairs: dict) -> str:
    return json.dumps({"pairs": list(pairs)})
