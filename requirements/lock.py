"""Write requirements/cpu.lock: every package of the CPU environment with its version and sha256.

usage: python requirements/lock.py        (about a minute; wants pip >= 23 and a network)

pip resolves `.[train,embedded,dev]` in a dry run and reports the files that it would install; the lock is that report,
sorted, for CPython 3.11 on Linux x86-64. torch is left out: its CPU build has another version suffix than the one on
PyPI and stands in requirements/torch-cpu.lock, written by hand.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# CPython 3.11, Linux x86-64, CPU. Made by `python requirements/lock.py`; do not edit.
# Installed with --no-deps --require-hashes after requirements/torch-cpu.lock.
"""
OWN = {"finetune-recipes", "torch"}


def resolve() -> list[dict]:
    """What pip would install for all extras, as its own installation report says."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        subprocess.run([*command, "--report", str(report), f"{ROOT}[train,embedded,dev]"], check=True)
        return json.loads(report.read_text())["install"]


def main() -> None:
    lines = []
    for item in resolve():
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if name.lower() in OWN:
            continue
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name.lower().replace('_', '-')}=={version} --hash=sha256:{digest}\n")
    (ROOT / "requirements/cpu.lock").write_text(HEAD + "".join(sorted(lines)))
    print(f"requirements/cpu.lock: {len(lines)} packages")


if __name__ == "__main__":
    main()
