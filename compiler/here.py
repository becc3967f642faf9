"""What this machine is: read from the system, without torch. `recipe doctor` prints it.

Every probe gives None or nothing where the system does not tell; nothing here is guessed.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    ("train", ("axolotl", "torch", "transformers", "peft", "bitsandbytes", "deepspeed", "liger-kernel", "flash-attn")),
    ("embedded", ("xllamacpp", "gguf")),
    ("", ("litellm", "pydantic")),
)
"""(extra of this project that brings them, packages); flash-attn is never required, so no extra brings it."""
PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU as its driver reports it."""

    name: str
    memory_bytes: int
    backend: str


@dataclass(frozen=True, slots=True)
class Here:
    """This machine."""

    python: str
    cpu: str
    cores: int
    bf16_flags: tuple[str, ...]
    """CPU features that compute BF16 in hardware."""
    ram_bytes: int | None
    disk_free_bytes: int
    cards: tuple[Card, ...]
    packages: dict[str, str | None]
    tools: dict[str, str | None]


def look() -> Here:
    """Probe the machine; takes well under a second without GPUs."""
    cpuinfo = _text("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = set(cpuinfo.partition("\nflags")[2].partition("\n")[0].split())
    return Here(
        python=".".join(str(part) for part in sys.version_info[:3]),
        cpu=name.group(1).strip() if name else "unknown CPU",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        bf16_flags=tuple(flag for flag in ("avx512_bf16", "amx_bf16", "avx_ne_convert") if flag in flags),
        ram_bytes=ram_bytes(_text("/proc/meminfo"), _text("/sys/fs/cgroup/memory.max")),
        disk_free_bytes=shutil.disk_usage(".").free,
        cards=cards(),
        packages={name: installed(name) for _, names in PACKAGES for name in names},
        tools={name: shutil.which(name) for name in ("git", "ollama", "make")},
    )


def ram_bytes(meminfo: str, cgroup_max: str) -> int | None:
    """RAM, or the container's share of it.

    >>> ram_bytes("MemTotal:  1024 kB", "max"), ram_bytes("MemTotal:  1024 kB", "4096"), ram_bytes("", "")
    (1048576, 4096, None)
    """
    total = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    found = [int(total.group(1)) * 1024] if total else []
    if cgroup_max.strip().isdigit():
        found.append(int(cgroup_max))
    return min(found, default=None)


def cards() -> tuple[Card, ...]:
    """NVIDIA cards by nvidia-smi, Intel's by xpu-smi, where these tools are."""
    asked = "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"
    return parse_nvidia(_output("nvidia-smi", *asked)) + parse_xpu(_output("xpu-smi", "discovery"))


def parse_nvidia(text: str) -> tuple[Card, ...]:
    """Lines of `name, MiB`.

    >>> parse_nvidia("NVIDIA GeForce RTX 3090 Ti, 24564\\n")
    (Card(name='NVIDIA GeForce RTX 3090 Ti', memory_bytes=25757220864, backend='cuda'),)
    """
    found = []
    for line in text.splitlines():
        name, _, mib = line.rpartition(",")
        if name and mib.strip().isdigit():
            found.append(Card(name.strip(), int(mib) * 2**20, "cuda"))
    return tuple(found)


def parse_xpu(text: str) -> tuple[Card, ...]:
    """The table of `xpu-smi discovery`, whose device names stand after `Device Name:`; it shows no memory.

    >>> parse_xpu("| 0         | Device Name: Intel(R) Arc(TM) B580 Graphics       |")
    (Card(name='Intel(R) Arc(TM) B580 Graphics', memory_bytes=0, backend='xpu'),)
    """
    names = re.findall(r"Device Name:\s*([^|\n]+)", text)
    return tuple(Card(name.strip(), 0, "xpu") for name in names)


def installed(package: str) -> str | None:
    """Version of an installed distribution, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    """What a tool prints; "" where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
