"""From a recipe's `generator` to somebody who makes its calls, with all that they need: address, price, ledger."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dataset_builder.calls import Caller
from dataset_builder.jobs import Patience
from dataset_builder.ledger import Ledger
from dataset_builder.money import FREE, Budget, price_of
from dataset_builder.spec import Generator
from dataset_builder.transport import Endpoint

EMBEDDED_SLOTS = 2


def open_caller(generator: Generator, ledger: Ledger, patience: Patience, cache_dir: Path) -> Caller:
    """Loads litellm, and starts the embedded model's server where that is asked for.

    Raises BuildProblem where the key is missing or the server does not start.
    """
    model, ceiling = generator.model, generator.max_concurrency
    held = contextlib.ExitStack()
    try:
        if generator.is_embedded:
            from dataset_builder.embedded import gguf_path, serve_embedded

            endpoint = Endpoint(generator, held.enter_context(serve_embedded(gguf_path(cache_dir), EMBEDDED_SLOTS)))
            ceiling = min(ceiling, 2 * EMBEDDED_SLOTS)
        else:
            endpoint = Endpoint(generator)
        budget = Budget(FREE if generator.is_embedded else price_of(model), generator.max_cost_usd,
                        ledger.spent_usd(model))  # fmt: skip
        return Caller(endpoint, ledger, budget, ceiling, generator.timeout_s, patience, held)
    except BaseException:
        held.close()
        raise
