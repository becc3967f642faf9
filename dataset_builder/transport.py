"""One call to one model through litellm: asks once, and says in one word what went wrong.

Who asks again, when and how often is the engine's business alone; litellm's own retries are off.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import Mapping

from dataset_builder.ledger import Reply, Request
from dataset_builder.limits import FAULT, OVERLOAD, retry_after_seconds
from dataset_builder.loading import litellm
from dataset_builder.problems import BuildProblem
from dataset_builder.spec import Generator

REFUSED, FATAL, UNREACHABLE, HUNG = "refused", "fatal", "unreachable", "hung"
"""Further kinds of failure: this request will never be answered; no request will; nobody listens; no answer in time."""

PREFIX = re.compile(r"^litellm\.\w+: (?:\w+Error: )?(?:\w+Exception - )?")
"""`litellm.BadRequestError: OpenAIException - ` tells a person nothing."""


class Trouble(Exception):
    """A call that brought no reply. `kind`: overload, fault, unreachable or hung (try again); refused; or fatal."""

    def __init__(self, kind: str, text: str, retry_after: float | None = None,
                 headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.retry_after = retry_after
        self.headers = headers or {}


class Endpoint:
    """The model of a recipe's `generator`, wherever it is served.

    `api_base` and the key say where a request runs, not what it is: they never enter its identity.
    """

    def __init__(self, generator: Generator, api_base: str | None = None) -> None:
        self.model = generator.model
        self.where = api_base or generator.api_base
        self.served_as = "openai/embedded" if generator.is_embedded else None
        """litellm's name where it differs from the recipe's."""
        self._common: dict = {"num_retries": 0, "max_retries": 0, "timeout": 20 * generator.timeout_s}
        if self.where:
            self._common["api_base"] = self.where
        key = os.environ.get(generator.api_key_env) if generator.api_key_env else None
        if generator.api_key_env and not key:
            raise BuildProblem(
                f"dataset.generator.api_key_env: the environment variable {generator.api_key_env} is not set.\n"
                f"Set it to the key of {generator.model}, or drop the field to use litellm's own variable."
            )
        if key:
            self._common["api_key"] = key
        elif self.where and not os.environ.get("OPENAI_API_KEY"):
            self._common["api_key"] = "none"  # OpenAI's client refuses to start without one; own servers want none

    async def ask(self, request: Request) -> tuple[Reply, Mapping[str, str]]:
        """The reply and its headers; `cost_usd` is left None. Raises Trouble."""
        library = litellm()
        call = self._call(request)
        started = time.monotonic()
        try:
            answer = await library.acompletion(**call)
        except asyncio.CancelledError:
            raise
        except Exception as wrong:  # whatever litellm or a provider's client raises, it is one of our six kinds
            raise trouble_of(wrong) from None
        reply = reply_of(request, answer, time.monotonic() - started)
        return reply, (getattr(answer, "_hidden_params", None) or {}).get("additional_headers") or {}

    def _call(self, request: Request) -> dict:
        call = {
            **self._common,
            "model": self.served_as or request.model,
            "messages": [{"role": role, "content": content} for role, content in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.schema is not None:
            schema = {"name": "reply", "schema": request.schema, "strict": True}
            call["response_format"] = {"type": "json_schema", "json_schema": schema}
        return call


def reply_of(request: Request, answer: object, seconds: float) -> Reply:
    """litellm's answer as a row of the ledger; a separate chain of thought goes in front, in `<think>` tags."""
    try:
        choice = answer.choices[0]
        text = choice.message.content or ""
        thought = getattr(choice.message, "reasoning_content", None)
    except (AttributeError, IndexError, TypeError):
        raise Trouble(FAULT, "the endpoint's answer holds no message") from None
    if thought:
        text = f"<think>{thought}</think>{text}"
    usage = getattr(answer, "usage", None)
    sent_characters = sum(len(content) for _, content in request.messages)
    return Reply(
        key=request.key,
        text=text,
        finish_reason=choice.finish_reason or "stop",
        # Some servers count nothing: four characters a token is the usual rule of thumb.
        prompt_tokens=getattr(usage, "prompt_tokens", None) or sent_characters // 4,
        completion_tokens=getattr(usage, "completion_tokens", None) or len(text) // 4,
        cost_usd=None,
        seconds=seconds,
        model=request.model,
        max_tokens=request.max_tokens,
    )


def trouble_of(wrong: Exception) -> Trouble:
    """Sorts an exception of litellm (or below it) by what can be done about it."""
    text = PREFIX.sub("", " ".join(str(getattr(wrong, "message", None) or wrong or type(wrong).__name__).split()))[:500]
    name = type(wrong).__name__
    status = getattr(wrong, "status_code", None)
    headers = _headers(wrong)
    retry_after = retry_after_seconds(headers, time.time())
    if _nobody_listens(wrong):
        return Trouble(UNREACHABLE, "no connection")
    if "LLM Provider NOT provided" in text:
        return Trouble(FATAL, "litellm needs the provider before the model's name, as in ollama/NAME or openai/NAME")
    if "insufficient_quota" in text or "Missing credentials" in text:
        return Trouble(FATAL, text)
    if status == 429 or name == "RateLimitError":
        return Trouble(OVERLOAD, text, retry_after, headers)
    if name == "Timeout" or status == 408:
        return Trouble(HUNG, text, retry_after, headers)
    if status in (401, 402, 403, 404) or name in ("LiteLLMUnknownProvider", "ImportError", "ModuleNotFoundError"):
        return Trouble(FATAL, text)
    if isinstance(status, int) and 400 <= status < 500:
        return Trouble(REFUSED, text)
    if isinstance(wrong, TypeError | KeyError | AttributeError | json.JSONDecodeError):
        return Trouble(FAULT, f"the endpoint's answer cannot be read ({text})")
    return Trouble(OVERLOAD if status == 503 else FAULT, text, retry_after, headers)


def _headers(wrong: Exception) -> Mapping[str, str]:
    response = getattr(wrong, "response", None)
    return getattr(wrong, "litellm_response_headers", None) or getattr(response, "headers", None) or {}


def _nobody_listens(wrong: BaseException | None) -> bool:
    """Whether the connection could not be made at all, as against one that broke."""
    signs = ("cannot connect", "connection refused", "connect call failed", "name or service not known",
             "temporary failure in name resolution", "nodename nor servname", "no route to host")
    seen = 0
    while wrong is not None and seen < 8:
        if any(sign in str(wrong).lower() for sign in signs) or isinstance(wrong, ConnectionRefusedError):
            return True
        wrong, seen = wrong.__cause__ or wrong.__context__, seen + 1
    return False


async def close_clients() -> None:
    """Closes what litellm keeps for the running event loop. It finds its clients by the address of their loop, which
    may be that of the next one: a call through a client of a loop that is gone never ends."""
    kept = litellm().in_memory_llm_clients_cache
    for name in [one for one in kept.cache_dict if str(one).endswith(f"-{id(asyncio.get_running_loop())}")]:
        client = kept.cache_dict.pop(name)
        kept.ttl_dict.pop(name, None)
        with contextlib.suppress(Exception):  # of whatever provider it is: it is not needed any more
            await client.close()


def context_tokens(model: str, api_base: str | None) -> int | None:
    """What the server says (vLLM: `max_model_len`; llama.cpp: `n_ctx`), else what litellm's list says, else None."""
    import requests

    if api_base:
        try:
            listed = requests.get(f"{api_base.rstrip('/')}/models", timeout=5).json()["data"]
        except (requests.RequestException, ValueError, KeyError, TypeError):
            listed = []
        entries = [one for one in listed if isinstance(one, dict)]
        for one in [one for one in entries if one.get("id") == model.partition("/")[2]] or entries[:1]:
            figure = one.get("max_model_len") or one.get("context_length") or (one.get("meta") or {}).get("n_ctx")
            if isinstance(figure, int):
                return figure
    try:
        return litellm().get_model_info(model).get("max_input_tokens")
    except Exception:  # litellm raises a bare Exception for a model it does not know
        return None
