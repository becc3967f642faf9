"""The base of everything a person types."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Unknown keys and wrong types are errors; a value is frozen once it is read. Field docstrings are documentation.

    `compiler.fields` reads them when they are asked for: pydantic's `use_attribute_docstrings` parses every source file
    at each start, a tenth of the time that `recipe check` takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
