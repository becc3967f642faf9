"""Starts a script once for each of two ranks, which meet over gloo on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def outputs(script: str, store: Path, *arguments: str, timeout_s: float) -> list[str]:
    """Standard output of `python SCRIPT RANK 2 STORE ARGUMENTS...` for rank 0 and rank 1; both must end well."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, str(HERE / script), str(rank), "2", str(store), *arguments],
            env=environment, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    found = []
    for process in ranks:
        output, errors = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, errors[-3000:]
        found.append(output)
    return found
