"""The `dataset:` part of a recipe. Light: imports pydantic and nothing that does work."""

from __future__ import annotations

from typing import Annotated, Literal

from dataset_builder.sources.files import FilesSource
from dataset_builder.sources.hf import HfSource
from dataset_builder.sources.repo import RepoSource
from dataset_builder.sources.web import WebSource
from dataset_builder.strict import Field, Strict, model_validator

Source = Annotated[FilesSource | WebSource | RepoSource | HfSource, Field(discriminator="kind")]
"""One entry of `dataset.sources`; each kind's settings live in its own module of `dataset_builder/sources/`."""


ROWS_A_FACT = {"standard": 4, "recall": 10}
"""Rows that a unique pair becomes, by `pairs.profile`."""


class Pairs(Strict):
    """How many pairs, and how they are varied."""

    unique: int = Field(default=2500, ge=1)
    """Grounded question/answer pairs, each about another fact."""
    total: int | None = Field(default=None, ge=1)
    """Rows after variants; omitted: 4 x unique (profile `standard`) or 10 x unique (`recall`)."""
    profile: Literal["standard", "recall"] = "standard"
    """`standard`: 4 rows a fact; `recall`: 10 rows a fact, for models that must know it by heart."""
    not_in_docs: float = Field(default=0.05, ge=0, le=0.5)
    """Share of rows whose honest answer is that the documentation does not say."""

    @property
    def rows(self) -> int:
        """Training rows after variants, stated or by the profile; rows of `hf` sources come on top."""
        return self.total or self.unique * ROWS_A_FACT[self.profile]


class Generator(Strict):
    """The LLM that words questions and answers."""

    model: str
    """Any litellm model name (`ollama/qwen2.5:7b-instruct`, `openai/...`, `hosted_vllm/...`), or `embedded`."""
    api_base: str | None = None
    """URL of a server of one's own, such as http://127.0.0.1:8081/v1."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; omitted: litellm's own rule for the provider."""
    max_cost_usd: float | None = Field(default=None, ge=0)
    """Hard cap: the call that would pass it is not sent."""
    max_concurrency: int = Field(default=64, ge=1, le=1024)
    """Requests in flight at the most; the engine finds the server's own limit below it."""
    temperature: float = Field(default=0.3, ge=0, le=2)
    seed: int = 0
    max_tokens: int = Field(default=1024, ge=16)
    """Of one reply."""
    timeout_s: float = Field(default=300, gt=0)
    """Of one request, in seconds."""

    @property
    def is_embedded(self) -> bool:
        """Whether the model is the one that we serve ourselves."""
        return self.model.startswith("embedded")


class Evaluation(Strict):
    """Questions set aside before variants are made."""

    recall: int | None = Field(default=None, ge=0)
    """Trained facts asked in a wording that is never trained; omitted: 10 % of `pairs.unique`, at most 200."""
    transfer: float = Field(default=0.05, ge=0, lt=0.5)
    """Share of the sections held out whole."""


class Licences(Strict):
    """Which documents may be used."""

    allow: tuple[str, ...] | None = Field(default=None, strict=False)
    """SPDX ids; omitted: any, and the card lists them."""
    deny: tuple[str, ...] = Field(default=(), strict=False)


class Dataset(Strict):
    """What the model shall learn from."""

    sources: tuple[Source, ...] = Field(min_length=1, strict=False)
    """Where the documentation lies."""
    pairs: Pairs = Pairs()
    generator: Generator
    judge: Generator | None = None
    """A second LLM that checks pairs against their text, used only if it passes its own test; omitted: code alone."""
    evaluation: Evaluation = Evaluation()
    licences: Licences = Licences()
    chunk_tokens: int = Field(default=600, ge=100, le=4000)
    """Budget of one chunk in tokens."""
    system_prompt: str | None = None
    """System message of every training row; omitted: none."""
    seed: int = 0

    def shares(self) -> float:
        """What the `hf` sources ask of the finished table, 0 to 1."""
        return sum(source.share or 0 for source in self.sources if source.kind == "hf")

    @model_validator(mode="after")
    def _room_for_documents(self) -> Dataset:
        if self.shares() >= 0.95:
            raise ValueError("the `share` of all `hf` sources leaves nothing for the documents; keep it below 0.95")
        return self
