"""A small OpenAI-compatible server with slots, a queue, latencies and faults, for tests and benchmarks.

    with mock_server(slots=8, latency_s=0.01) as server:
        ... server.api_base ...
        server.stats()      # what it has seen

It runs in a process of its own. The k-th request that gets a slot takes the k-th latency of a seeded sequence, so that
every client meets the same service times; faults are drawn per request, so that a second try is a new draw.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import hashlib
import heapq
import json
import math
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

FAULTS = ("500", "429", "reset", "cut", "hang")


@dataclass(frozen=True)
class MockServer:
    """A running server."""

    api_base: str
    process: subprocess.Popen

    def kill(self) -> None:
        """As if its machine had lost power."""
        self.process.kill()

    def stats(self) -> dict:
        """calls, ok, distinct (prompts answered well), bought_twice, max_in_flight, faults by kind, spans ..."""
        with urllib.request.urlopen(self.api_base.removesuffix("/v1") + "/stats", timeout=10) as reply:
            return json.load(reply)


@contextlib.contextmanager
def mock_server(**options: object) -> Iterator[MockServer]:
    """Starts the server with the options of `main` (slots, latency_s, ...) on a free loopback port."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    child = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    try:
        yield MockServer(f"http://127.0.0.1:{int(child.stdout.readline())}/v1", child)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


class Server:
    """The server's state; one event loop, so no locks."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.slots = asyncio.Semaphore(options.slots)
        self.latencies = random.Random(options.seed)
        self.faults = random.Random(options.seed + 1)
        self.in_flight = self.waiting = self.max_in_flight = self.calls = 0
        self.answered: collections.Counter[str] = collections.Counter()
        self.by_fault: collections.Counter[str] = collections.Counter()
        self.service: list[float] = []
        self.begun_at = self.ended_at = None
        self.window: collections.deque[float] = collections.deque()
        self.bodies: collections.deque[dict] = collections.deque(maxlen=10)

    def latency_s(self) -> float:
        mean, sigma = self.options.latency_s, self.options.sigma
        return self.latencies.lognormvariate(math.log(mean) - sigma**2 / 2, sigma) if mean else 0.0

    def fault(self) -> str:
        if self.faults.random() >= self.options.fault_rate:
            return ""
        return self.faults.choice(self.options.faults.split(","))

    async def chat(self, request):
        body = await request.json()
        self.calls += 1
        self.in_flight += 1
        self.begun_at = self.begun_at or time.time()
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.bodies.append(body)
        try:
            return await self._answer(request, body, self.fault())
        finally:
            self.in_flight -= 1
            self.ended_at = time.time()

    async def _answer(self, request, body, fault):
        options = self.options
        if options.status:
            return self._error(options.status, options.message)
        if options.refuse_schema and "response_format" in body:
            return self._error(400, "response_format is not supported")
        if fault == "429" or self._over_limit():
            self.by_fault["429"] += 1
            return self._error(429, "Rate limit reached", {"Retry-After": f"{options.retry_after_s:g}"})
        if fault == "hang":
            self.by_fault["hang"] += 1
            await asyncio.sleep(options.hang_s)
            request.transport.abort()
            return self._error(500, "gone")
        self.waiting += 1
        async with self.slots:
            self.waiting -= 1
            latency_s = self.latency_s()
            self.service.append(latency_s)
            await asyncio.sleep(latency_s)
        if fault == "500":
            self.by_fault["500"] += 1
            return self._error(500, "Internal server error")
        if fault == "reset":
            self.by_fault["reset"] += 1
            request.transport.abort()
            return self._error(500, "gone")
        return self._reply(body, fault == "cut")

    def _over_limit(self) -> bool:
        options = self.options
        if options.queue_limit and self.waiting >= options.queue_limit:
            return True
        if not options.requests_per_s:
            return False
        now = time.monotonic()
        while self.window and self.window[0] < now - 1:
            self.window.popleft()
        if len(self.window) >= options.requests_per_s:
            return True
        self.window.append(now)
        return False

    def _reply(self, body, cut):
        from aiohttp import web

        prompt = "\n".join(message["content"] for message in body["messages"])
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        text = self.options.reply or (self.options.grounded and grounded(prompt)) or json.dumps({"pairs": [{
            "question": f"What does {digest[:8]} say?", "answer": f"It says {body.get('seed')}.",
            "quote": " ".join(re.findall(r"\S+", prompt)[-8:])}]})
        cut = cut or body["max_tokens"] < self.options.needs_tokens
        if cut:
            self.by_fault["cut"] += 1
            text = text[: len(text) * 6 // 10]
        else:
            self.answered[digest] += 1
        reply = {
            "id": f"mock-{self.calls}", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                         "finish_reason": "length" if cut else "stop"}],
            "usage": {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4,
                      "total_tokens": (len(prompt) + len(text)) // 4},
        }
        return web.json_response(reply, headers=json.loads(self.options.headers))

    def _error(self, status, message, headers=None):
        from aiohttp import web

        error = {"message": message, "type": "error", "code": str(status)}
        return web.json_response({"error": error}, status=status, headers=headers)

    async def stats(self, _request):
        from aiohttp import web

        return web.json_response({
            "calls": self.calls, "ok": sum(self.answered.values()), "distinct": len(self.answered),
            "bought_twice": sum(count - 1 for count in self.answered.values()), "max_in_flight": self.max_in_flight,
            "faults": dict(self.by_fault), "span_s": (self.ended_at or 0) - (self.begun_at or 0),
            "best_span_s": best_span(self.service, self.options.slots), "begun_at": self.begun_at,
            "ended_at": self.ended_at, "last_bodies": list(self.bodies)})


def grounded(prompt: str) -> str:
    """What a model that reads well would reply: sentences of the document as answers and quotes, or views of a pair."""
    if views := re.search(r"one pair for each of these views: ([^.]+)", prompt):
        question, answer = re.search(r"Question: (.*)\?\nAnswer: (.*)", prompt).groups()
        return json.dumps({"pairs": [{"view": name, "question": f"{question} ({name})?", "answer": answer}
                                     for name in views[1].split(", ")]})  # fmt: skip
    found = re.findall(r"<(document|passage)>\n(.*?)\n</\1>", prompt, re.S)
    if not found:
        return "What is it?"
    sentences = [" ".join(one.split()) for one in re.findall(r"[A-Z][^.\n]{40,300}\.(?=\s|$)", found[-1][1])]
    pairs = []
    for sentence in sentences:
        told = re.findall(r"`[^`]+`|[A-Za-z]{3,}", sentence)
        pairs.append({"question": f"What holds for {' '.join(told[1:7])}?", "answer": sentence, "quote": sentence,
                      "kind": "direct"})  # fmt: skip
    count = re.search(r"Write (\d+) pairs", prompt)
    start = int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % len(pairs)
    pairs = (pairs[start:] + pairs[:start])[: int(count[1]) if count else 1]
    return json.dumps({"pairs": pairs} if count else pairs[0])


def best_span(service: list[float], slots: int) -> float:
    """Seconds in which `slots` that are never idle work the list off in its order.

    >>> best_span([1.0, 1.0, 2.0], 2)
    3.0
    """
    free = [0.0] * slots
    for seconds in service:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)


async def serve(options: argparse.Namespace) -> None:
    from aiohttp import web

    server = Server(options)
    application = web.Application(client_max_size=2**24)
    application.router.add_post("/v1/chat/completions", server.chat)
    application.router.add_get("/stats", server.stats)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, keepalive_timeout=300)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port, backlog=4096)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--slots", type=int, default=64)
    options.add_argument("--latency-s", type=float, default=0.0, help="mean of a lognormal distribution")
    options.add_argument("--sigma", type=float, default=0.5)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--fault-rate", type=float, default=0.0)
    options.add_argument("--faults", default=",".join(FAULTS))
    options.add_argument("--retry-after-s", type=float, default=0.2)
    options.add_argument("--hang-s", type=float, default=20.0)
    options.add_argument("--queue-limit", type=int, default=0, help="429 when so many wait for a slot")
    options.add_argument("--requests-per-s", type=int, default=0, help="429 above so many")
    options.add_argument("--status", type=int, default=0, help="answer everything with this error")
    options.add_argument("--message", default="as told")
    options.add_argument("--refuse-schema", type=int, default=0, help="1: 400 for requests with a response_format")
    options.add_argument("--needs-tokens", type=int, default=0, help="replies with less room are cut")
    options.add_argument("--reply", default="", help="text of every reply")
    options.add_argument("--grounded", type=int, default=0, help="1: replies that a dataset can be built from")
    options.add_argument("--headers", default="{}", help="JSON object of headers for good replies")
    asyncio.run(serve(options.parse_args()))


if __name__ == "__main__":
    main()
