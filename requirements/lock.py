"""Write requirements/cpu.lock: every package of the CPU environment with its version and sha256.

usage: python requirements/lock.py [--upgrade]        (a few minutes; wants pip >= 23 and a network)

pip resolves `.[train,embedded,ray,dev]` in a dry run and reports the files that it would install; the lock is that
report, sorted, for CPython 3.11 on Linux x86-64. A package that is locked already keeps its version, so that a new
extra adds lines and changes none; with `--upgrade` all take the newest that fits. torch is left out: its CPU build has
another version suffix than the one on PyPI and stands in requirements/torch-cpu.lock, written by hand.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements/cpu.lock"
EXTRAS = "train,embedded,ray,dev"
HEAD = """\
# CPython 3.11, Linux x86-64, CPU. Made by `python requirements/lock.py`; do not edit.
# Installed with --no-deps --require-hashes after requirements/torch-cpu.lock.
"""
OWN = {"finetune-recipes", "torch"}


def resolve(upgrade: bool) -> list[dict]:
    """What pip would install for all extras, as its own installation report says."""
    with tempfile.TemporaryDirectory() as folder:
        report, pins = Path(folder, "report.json"), Path(folder, "pins.txt")
        locked = [] if upgrade else [line for line in LOCK.read_text().splitlines() if "==" in line]
        pins.write_text("".join(line.split(" --hash")[0] + "\n" for line in locked))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", str(report), "--constraint", str(pins), f"{ROOT}[{EXTRAS}]"]
        subprocess.run(command, check=True)
        return json.loads(report.read_text())["install"]


def main() -> None:
    lines = []
    for item in resolve("--upgrade" in sys.argv[1:]):
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if name.lower() in OWN:
            continue
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name.lower().replace('_', '-')}=={version} --hash=sha256:{digest}\n")
    LOCK.write_text(HEAD + "".join(sorted(lines)))
    print(f"requirements/cpu.lock: {len(lines)} packages")


if __name__ == "__main__":
    main()
