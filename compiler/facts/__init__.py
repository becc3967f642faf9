"""What is known of devices and models: data with a source and a date (`gpus.yaml`, `models.yaml`, `rates.yaml`).

    gpus()["rtx-3090-ti"]                  -> Gpu
    models()["google/gemma-2-2b-it"]       -> ModelFacts

Ids are exact. What is not known is None, never a guess. An entry is parsed when it is asked for: a plan needs one
device and one model out of a hundred, and YAML takes longer to read than the rest of a plan takes to make.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from compiler.quick import dataclass

if TYPE_CHECKING:
    from compiler.architecture import Architecture

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device. Rates are dense (no sparsity), with FP32 accumulation; links are one direction."""

    id: str
    name: str
    """As the driver reports it."""
    backend: str
    """`cuda`, `rocm`, `xpu` or `cpu`."""
    vram_gib: float | None
    """Datasheet. None for a CPU, whose memory the recipe states."""
    usable_mib: int | None
    """What the driver lets PyTorch see."""
    usable_how: str
    capability: str | None
    bf16: bool
    """PyTorch computes in BF16 on it."""
    bf16_native: bool | None
    """In hardware; None where it depends on a model that the id does not name."""
    fp16: bool
    tf32: bool
    flash_attention_2: bool
    bf16_tflops: float | None
    fp16_tflops: float | None
    bandwidth_gb_s: float | None
    pcie: str | None
    host_gb_s: float | None
    """Between host and device."""
    device_link_gb_s: float | None
    """Between two of these devices: NVLink where the board has it, else PCIe."""
    peer_to_peer: bool
    source: str
    as_of: str
    price_usd_per_hour: float | None = None
    price_source: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def vram_bytes(self) -> int | None:
        """Usable bytes."""
        return None if self.usable_mib is None else self.usable_mib * MIB


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One base model. `config` holds the values of its `config.json` that decide shapes."""

    id: str
    config: Mapping[str, Any]
    parameters: int
    """As `compiler.architecture` counts them; checked in the tests."""
    licence: str
    gated: bool
    """The hub asks for a log-in and an agreement before it hands out the weights."""
    chat_template: str | None
    """Axolotl's name; `tokenizer_default` where Axolotl has none of its own; None: the model has none."""
    end_of_turn: tuple[str, ...]
    pad_token: str | None
    source: str
    as_of: str
    notes: tuple[str, ...] = field(default=())

    @property
    def architecture(self) -> Architecture:
        from compiler.architecture import from_config

        return from_config(self.config)


Entry = TypeVar("Entry")
_ENTRY_START = re.compile(r"^(?P<id>[^\s#].*):[ \t]*$", re.MULTILINE)


class Catalogue(Mapping[str, Entry], Generic[Entry]):
    """The entries of one file, in its order, each parsed on first use."""

    def __init__(self, text: str, make: Callable[[str, dict[str, Any]], Entry]) -> None:
        starts = list(_ENTRY_START.finditer(text))
        ends = [start.start() for start in starts[1:]] + [len(text)]
        self._blocks = {
            start["id"].strip("\"'"): text[start.end() : end] for start, end in zip(starts, ends, strict=True)
        }
        assert len(self._blocks) == len(starts), "an id stands twice in the facts"
        self._make = make
        self._parsed: dict[str, Entry] = {}

    def __getitem__(self, key: str) -> Entry:
        if key not in self._parsed:
            self._parsed[key] = self._make(key, load_yaml(self._blocks[key]))
        return self._parsed[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: object) -> bool:
        return key in self._blocks

    def near(self, key: str) -> list[str]:
        """Up to three ids that look like `key`, the likeliest first."""
        import difflib

        lower = {known.lower(): known for known in self._blocks}
        return [lower[match] for match in difflib.get_close_matches(key.lower(), lower, n=3, cutoff=0.5)]


@cache
def gpus() -> Catalogue[Gpu]:
    return Catalogue(_text("gpus.yaml"), lambda key, values: Gpu(id=key, **_tuples(values)))


@cache
def models() -> Catalogue[ModelFacts]:
    return Catalogue(_text("models.yaml"), lambda key, values: ModelFacts(id=key, **_tuples(values)))


@cache
def rates() -> dict[str, Any]:
    """Name -> value of the achieved rates that `compiler.speed` leans on; unit and source stand in `rates.yaml`."""
    return {name: entry["value"] for name, entry in load_yaml(_text("rates.yaml")).items()}


def load_yaml(text: str) -> Any:
    """Parse with libyaml where PyYAML was built with it (ten times faster), else with the pure loader."""
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return values | {"as_of": str(values["as_of"])}
