"""The client that `engine.py` measures, in a process of its own. Prints its figures once all is asked.

    python benchmarks/engine_client.py API_BASE LEDGER COUNT SLOTS BARE
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from dataset_builder.process import CallsProcess  # noqa: E402

TEXT = "The option is read once, when the process starts; a later change has no effect until it is started again. " * 20
SCHEMA = {
    "type": "object",
    "required": ["pairs"],
    "properties": {
        "pairs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["question", "answer", "quote"],
                "properties": {name: {"type": "string"} for name in ("question", "answer", "quote")},
            },
        }
    },
}


def requests(count: int, model: str):
    """`count` requests of some 600 tokens each, made as they are taken."""
    from dataset_builder.ledger import Request

    for number in range(count):
        prompt = f"Write a question, its answer and a quote.\n<document>\nPage {number}.\n{TEXT}\n</document>"
        yield Request(model, (("system", "You write grounded questions."), ("user", prompt)), SCHEMA, stage="questions")


def parse(reply) -> object:
    from dataset_builder.replies import json_in

    return json_in(reply.text)["pairs"]


def engine_figures(process: CallsProcess, api_base: str, ledger: str, count: int, slots: int) -> dict:
    """Outcomes of `count` requests, and the processor time of both processes after the first `slots` of them."""
    process.begin()
    from dataset_builder.engine import Engine
    from dataset_builder.ledger import Ledger
    from dataset_builder.spec import Generator

    done, begun = 0, 0.0
    generator = Generator(model="openai/mock", api_base=api_base, max_concurrency=slots)
    with Ledger(ledger) as book, Engine(generator, book, process=process) as engine:
        for outcome in engine.run(requests(count, generator.model), parse):
            done += outcome.problem is None
            begun = cpu_s(process) if done == slots else begun
        used = cpu_s(process) - begun
    return {"done": done, "cpu_ms_per_request": round(1000 * used / (count - slots), 3)}


def bare_figures(api_base: str, count: int, slots: int) -> dict:
    """litellm alone in a loop that keeps the slots full: the least that any client on top of it can cost."""
    import asyncio

    from dataset_builder.spec import Generator
    from dataset_builder.transport import Endpoint

    endpoint = Endpoint(Generator(model="openai/mock", api_base=api_base, max_concurrency=slots))
    left, done, begun = requests(count, "openai/mock"), 0, 0.0

    async def slot() -> None:
        nonlocal done, begun
        for request in left:
            reply, _ = await endpoint.ask(request)
            done += bool(parse(reply))
            begun = time.process_time() if done == slots else begun

    async def all_slots() -> None:
        await asyncio.gather(*(slot() for _ in range(slots)))

    asyncio.run(all_slots())
    return {"done": done, "cpu_ms_per_request": round(1000 * (time.process_time() - begun) / (count - slots), 3)}


def cpu_s(process: CallsProcess) -> float:
    """Processor time of this process and of the one that makes the calls, which is still running."""
    import os

    ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return time.process_time() + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def main(api_base: str, ledger: str, count: str, slots: str, bare: str) -> None:
    with CallsProcess() as process:
        figures = (bare_figures(api_base, int(count), int(slots)) if bare == "1"
                   else engine_figures(process, api_base, ledger, int(count), int(slots)))  # fmt: skip
    import json
    import resource

    peaks = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({**figures, "peak_mib": peaks}))


if __name__ == "__main__":
    main(*sys.argv[1:])
