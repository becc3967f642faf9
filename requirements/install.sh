#!/usr/bin/env bash
# Make .venv from the lock files; a second call does nothing unless a lock or pyproject.toml changed.
# usage: requirements/install.sh        (PYTHON=python3.11 by default)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
stamp=.venv/installed
wanted=$(cat requirements/cpu.lock requirements/torch-cpu.lock pyproject.toml requirements/install.sh | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && .venv/bin/python -c 'import compiler' 2>/dev/null; then
  exit 0
fi
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
  echo "error: the lock files are for Python 3.11; '$python' is $("$python" -V 2>&1). Set PYTHON=/path/to/python3.11" >&2
  exit 1
}
echo "setup: making .venv (about 4 GB on disk, 2-5 minutes)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
rm -f "$stamp"
pip=(.venv/bin/python -m pip --disable-pip-version-check -q install --no-deps)
echo "setup: 1/3 torch, CPU build"
"${pip[@]}" -q --require-hashes -r requirements/torch-cpu.lock 2>/dev/null ||
  "${pip[@]}" --require-hashes --index-url https://download.pytorch.org/whl/cpu -r requirements/torch-cpu.lock
echo "setup: 2/3 $(grep -c == requirements/cpu.lock) packages, hashes checked"
# Some packages ship as sdists; DeepSpeed's asks whether to compile CUDA kernels, and there is nothing to compile them with.
DS_BUILD_OPS=0 "${pip[@]}" -q --require-hashes -r requirements/cpu.lock
echo "setup: 3/3 this project"
"${pip[@]}" -q -e .
echo "$wanted" > "$stamp"
echo "setup: done"
