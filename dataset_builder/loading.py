"""Imports litellm in less than half of its usual time, with what Python, pydantic and tiktoken offer for it.

Of 2.7 s of processor time, 1.1 s go into validators of 1,800 pydantic models of which a call needs a dozen, 0.5 s
into a garbage collector that finds none, 0.27 s into types of OpenAI's client that nobody asks for, and 0.15 s into a
tokenizer that litellm itself means to load late. Of the first call's 0.3 s, 0.2 s go into that client's resources
(docs/engine.md has the figures).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import importlib
import importlib.abc
import importlib.machinery
import logging
import os
import sys
import threading
import warnings
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from types import ModuleType

_LOCK = threading.Lock()


def warm() -> None:
    """Begins to load litellm (seconds) in a thread; call it as soon as it is likely that there will be calls.

    Not a daemon: a run that needed no call at all ended during the import, and the interpreter then kills the thread
    inside C++ code, which aborts the process ("FATAL: exception not rethrown") after everything was written.
    """
    threading.Thread(target=_warmed, name="litellm").start()


def _warmed() -> None:
    """A run that ends early ends this import in its middle ("can't register atexit after shutdown"): nobody wants it
    any more then. Where it is wanted, the first call imports again and says what is wrong."""
    with contextlib.suppress(Exception):
        litellm()


def litellm() -> ModuleType:
    """The library, imported on first use, quiet, without telemetry and without a download of prices."""
    with _LOCK:  # a thread that warms up and one that calls must not both prepare the import
        return _imported()


@functools.cache
def _imported() -> ModuleType:
    # Else it fetches a price list from the network while it is imported, with retries.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOG", "CRITICAL")
    # A server on this machine is never reached through a proxy.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    with warnings.catch_warnings(), _without_collector(), _validators_later(), _tokenizer_later(), _without_extras():
        warnings.simplefilter("ignore")
        sys.meta_path.insert(0, _NamesLater())  # stays: a call imports more of them
        import litellm
    _without_logging_worker()

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = True  # a provider that knows no `seed` still answers
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "httpx", "openai"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return litellm


def _without_logging_worker() -> None:
    """Callbacks that nobody has set are not prepared either.

    litellm does so in a task that never ends, one for the whole process: when a second event loop makes a call (a
    judge's beside a generator's) or one is closed, it drops the other's, and Python tells the terminal "Task was
    destroyed but it is pending!" (litellm 1.97, litellm_core_utils/logging_worker.py).
    """
    with contextlib.suppress(ImportError, AttributeError):
        from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

        GLOBAL_LOGGING_WORKER.ensure_initialized_and_enqueue = _not_logged


def _not_logged(async_coroutine: Coroutine) -> None:
    async_coroutine.close()


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage collection meanwhile; what is there afterwards stays until the end, so later collections skip it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


@contextlib.contextmanager
def _validators_later() -> Iterator[None]:
    """Models made meanwhile build their validators when they are first used (pydantic's `defer_build`)."""
    from pydantic import BaseModel

    BaseModel.model_config["defer_build"] = True
    try:
        yield
    finally:
        BaseModel.model_config.pop("defer_build", None)


@contextlib.contextmanager
def _without_extras() -> Iterator[None]:
    """As if litellm's optional packages for servers were not installed, which is what `pip install litellm` gives."""
    absent = [name for name in ("fastapi", "opentelemetry") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # None: importing it raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextlib.contextmanager
def _tokenizer_later() -> Iterator[None]:
    """An encoding that is asked for meanwhile is loaded when it is first used: token counts come from the server."""
    import tiktoken

    load = tiktoken.get_encoding
    tiktoken.get_encoding = lambda name: _Encoding(name, load)
    try:
        yield
    finally:
        tiktoken.get_encoding = load


class _Encoding:
    """A tiktoken encoding that loads itself."""

    def __init__(self, name: str, load) -> None:
        self._name, self._load = name, functools.cache(load)

    def __getattr__(self, attribute: str):
        return getattr(self._load(self._name), attribute)


class _NamesLater(importlib.abc.MetaPathFinder):
    """Finds the packages of OpenAI's client that only gather what their modules define: 784 modules of types and 460 of
    resources, of which a call needs a few. Each is imported when one of its names is asked for."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None,
                  ) -> importlib.machinery.ModuleSpec | None:  # fmt: skip
        if not f"{name}.".startswith(("openai.types.", "openai.resources.")):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.origin and spec.submodule_search_locations is not None:
            names = _gathered(Path(spec.origin).read_text(encoding="utf-8"))
            if names:
                spec.loader = _Gatherer(names)
        return spec


def _gathered(source: str) -> dict[str, tuple[str, str]]:
    """By name in a package: the module and the name there that it comes from. Empty where the package does anything
    else than to import names from its own modules and to list them.

    >>> _gathered("from .batch import Batch as Batch\\nfrom .chat import (\\n    Chat,\\n)\\n__all__ = ['Chat']")
    {'Batch': ('.batch', 'Batch'), 'Chat': ('.chat', 'Chat')}
    >>> _gathered("from .batch import Batch\\nBatch.model_rebuild()")
    {}
    """
    names = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            names |= {one.asname or one.name: (f".{node.module}", one.name) for one in node.names}
        elif not ((isinstance(node, ast.ImportFrom) and node.module == "__future__") or _lists_names(node)):
            return {}
    return {} if "*" in names else names


def _lists_names(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


class _Gatherer(importlib.abc.Loader):
    """Makes a package without running it."""

    def __init__(self, names: dict[str, tuple[str, str]]) -> None:
        self._names = names

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Package(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["_names"] = self._names


class _Package(ModuleType):
    def __getattr__(self, name: str):
        if name == "__all__":
            return list(self._names)
        if name not in self.__dict__.get("_names", ()):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module, there = self._names[name]
        value = getattr(importlib.import_module(module, self.__name__), there)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._names})
