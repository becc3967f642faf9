"""The base of everything a person types, and what it needs of pydantic, whose import is made quicker here."""

import importlib.util
import os
import sys

import typing_extensions

# Looking for pydantic's plugins reads the metadata of every package installed; these models have none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def _put_off(name: str) -> None:
    """Let the next `import name` make a module that is loaded when something in it is first used."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None, name
    spec.loader = importlib.util.LazyLoader(spec.loader)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


# Pydantic imports it for its plugins alone; with email, socket and zipfile it is a tenth of a cold `recipe plan`.
_unused = os.environ["PYDANTIC_DISABLE_PLUGINS"] == "__all__" and "importlib.metadata" not in sys.modules
if _unused:
    _put_off("importlib.metadata")

# Where pydantic marks its old names as deprecated, typing_extensions imports asyncio and ssl for each to ask whether it
# is a coroutine: a tenth of a cold `recipe plan`. While pydantic is imported they stay as they are, without a warning.
_mark = typing_extensions.deprecated.__call__
typing_extensions.deprecated.__call__ = lambda self, function, /: function
try:
    from pydantic import (
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        ValidationError,
        WithJsonSchema,
        model_validator,
    )
finally:
    typing_extensions.deprecated.__call__ = _mark
    if _unused and "importlib.metadata" in sys.modules:
        del sys.modules["importlib.metadata"]  # whoever needs it imports it as ever

__all__ = ["BeforeValidator", "Field", "Strict", "ValidationError", "WithJsonSchema", "model_validator"]


class Strict(BaseModel):
    """Unknown keys and wrong types are errors; a value is frozen once it is read. Field docstrings are documentation.

    `compiler.fields` reads them when they are asked for: pydantic's `use_attribute_docstrings` parses every source file
    at each start, a tenth of the time that `recipe check` takes. Validators are built when a value is first read
    (`defer_build`): a recipe needs one, not one for each of its parts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)
