"""Several machines with a ledger each, and several processes on one: the tables are those of a single run, and nothing
is asked twice."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from test_build_data import FOLDER, KILLED, RECIPE, project, run  # noqa: F401
from tests_scripted import Scripted, weak

LEDGER = Path(".cache/ledgers/quay.sqlite")
TABLES = ("train.csv", "eval_recall.csv", "eval_transfer.csv", "coverage.md", "dropped.jsonl")


def tables() -> dict[str, bytes]:
    return {name: (FOLDER / name).read_bytes() for name in TABLES}


def afresh() -> None:
    shutil.rmtree(".cache")
    shutil.rmtree(FOLDER, ignore_errors=True)


def test_shards_of_three_machines_merge_to_the_tables_of_one(project, monkeypatch):  # noqa: F811
    (project / "recipe.yaml").write_text(RECIPE.replace("unique: 12", "unique: 16").replace("total: 50", "total: 60"))
    scripted = Scripted(monkeypatch, weak)
    assert run().exit_code == 0
    one, keys = tables(), {request.key for request in scripted.asked}
    afresh()
    scripted.asked.clear()
    for number in (1, 2, 3):
        assert run("--shard", f"{number}/3").exit_code == 0
        LEDGER.rename(f"machine{number}.sqlite")
    assert not FOLDER.exists()
    shared = Counter(request.key for request in scripted.asked)
    assert max(shared.values()) == 1 and max(Counter(shared.values())) == 1
    before = len(scripted.asked)
    done = run(*(word for number in (1, 2, 3) for word in ("--merge", f"machine{number}.sqlite")))
    assert done.exit_code == 0 and "machine2.sqlite: " in done.output
    assert tables() == one
    assert {request.key for request in scripted.asked} == keys
    assert len(scripted.asked) - before <= len(keys) // 4  # what uneven shards left over


def test_a_ledger_is_not_merged_into_itself(project, monkeypatch):  # noqa: F811
    Scripted(monkeypatch, weak)
    run()
    done = run("--merge", str(LEDGER))
    assert done.exit_code == 1 and "the ledger of the build itself" in done.output


def test_two_builders_on_one_ledger_of_which_one_is_killed(project, monkeypatch):  # noqa: F811
    """The survivor ends with the tables of a single run; only what the other had in flight is asked again."""
    Scripted(monkeypatch, weak)
    run()
    one = tables()
    afresh()
    slow = KILLED.replace("    global count\n", "    global count\n    import time; time.sleep(0.05)\n")
    assert slow != KILLED
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    builders = []
    for limit in (3, -1):
        text = slow.format(tests=str(Path(__file__).parent), limit=limit).replace("asked.txt", f"asked{limit}.txt")
        builders.append(subprocess.Popen([sys.executable, "-c", text], env=environment, stderr=subprocess.PIPE))
        while not LEDGER.exists():
            time.sleep(0.05)
    codes = [builder.communicate(timeout=200) and builder.returncode for builder in builders]
    assert codes == [-signal.SIGKILL, 0]
    asked = [Path(f"asked{limit}.txt").read_text().split() for limit in (3, -1) if Path(f"asked{limit}.txt").exists()]
    assert all(len(set(keys)) == len(keys) for keys in asked)
    assert len(asked) == 2 and len(set(asked[0]) & set(asked[1])) <= 1  # max_concurrency is 1
    assert tables() == one
