"""The base of everything a person types, and what it needs of pydantic, whose import is made quicker here."""

import importlib
import os
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

import typing_extensions

# Looking for pydantic's plugins reads the metadata of every package installed; these models have none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def _stand_in(name: str) -> ModuleType:
    """A module that imports the real one when something in it is asked for."""
    module = ModuleType(name)

    def from_the_real_one(attribute: str) -> Any:
        if sys.modules.get(name) is module:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    module.__getattr__ = from_the_real_one  # type: ignore[method-assign]
    return module


# Pydantic imports it for its plugins alone; with email, socket and zipfile it is a tenth of a cold `recipe plan`.
_METADATA = "importlib.metadata"
_unused = os.environ["PYDANTIC_DISABLE_PLUGINS"] == "__all__" and _METADATA not in sys.modules
if _unused:
    sys.modules[_METADATA] = _stand_in(_METADATA)

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

    if _unused:
        with suppress(ImportError):
            importlib.import_module("pydantic.plugin._loader")  # the first validator would import it
finally:
    typing_extensions.deprecated.__call__ = _mark
    if _unused:
        sys.modules.pop(_METADATA, None)  # whoever needs it imports it as ever

__all__ = ["BeforeValidator", "Field", "Strict", "ValidationError", "WithJsonSchema", "model_validator"]


class Strict(BaseModel):
    """Unknown keys and wrong types are errors; a value is frozen once it is read. Field docstrings are documentation.

    `compiler.fields` reads them when they are asked for: pydantic's `use_attribute_docstrings` parses every source file
    at each start, a tenth of the time that `recipe check` takes. Validators are built when a value is first read
    (`defer_build`): a recipe needs one, not one for each of its parts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)
