"""`recipe data --on ray`: the same functions on two workers of a local Ray give the same bytes; nothing is lost."""

import os
import sys
import threading
import time
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from test_build_data import FOLDER, project, run  # noqa: F401
from tests_rows import at_odds, dying, shipped
from tests_scripted import Scripted, weak

from dataset_builder import on_ray
from dataset_builder.on_ray import OnRay
from dataset_builder.problems import BuildProblem

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, of its own code


@pytest.fixture(scope="module")
def ray():
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch, OnRay(cores=2, small=0) as runner:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers import tests_rows
        yield runner


def test_rows_come_back_in_their_order_from_other_processes(ray, monkeypatch):
    monkeypatch.setattr(on_ray, "WINDOW_ROWS", 60)
    before = ray.windows
    made = list(ray.map(shipped, (f"word {number}" for number in range(100))))
    assert [one.rsplit(" ", 1)[0] for one in made] == [f"WORD {number}" for number in range(100)]
    assert ray.windows == before + 2
    assert str(os.getpid()) not in {one.rsplit(" ", 1)[1] for one in made}


def test_a_row_that_raises_is_said_with_what_it_raised(ray):
    with pytest.raises(BuildProblem, match="ValueError: forty"):
        list(ray.map(at_odds, range(100)))


def test_a_worker_that_dies_again_and_again_ends_the_run(ray):
    with pytest.raises(BuildProblem, match="--on ray"):
        list(ray.map(dying, range(100)))


def test_another_version_on_a_worker_is_refused(ray, monkeypatch):
    monkeypatch.setattr(on_ray, "builder_digest", lambda: "another")
    with pytest.raises(BuildProblem, match="another version"):
        list(ray.map(shipped, ["word"]))


def test_a_build_on_ray_gives_the_same_bytes(ray, project, monkeypatch):  # noqa: F811
    Scripted(monkeypatch, weak)
    (project / "docs" / "bad.rst").write_bytes(b"\0\1")
    assert run().exit_code == 0
    files = [*FOLDER.iterdir(), *Path("raw-materials").rglob("*.*")]
    here = {path: path.read_bytes() for path in files}
    for path in FOLDER.iterdir():
        path.unlink()
    monkeypatch.setattr("compiler.commands.data._runner", lambda _: ray_kept_open(ray))
    before = ray.windows
    done = run("--on", "ray")
    assert done.exit_code == 0, done.output
    assert ray.windows >= before + 6  # read, chunk, facts, wordings, pairs, comparison
    assert here == {path: path.read_bytes() for path in files}


class ray_kept_open:
    """The module's Ray, which the command must not end."""

    def __init__(self, runner: OnRay) -> None:
        self.runner = runner

    def __enter__(self) -> OnRay:
        return self.runner

    def __exit__(self, *_: object) -> None:
        pass


def test_without_ray_the_command_says_how_to_get_it(project, monkeypatch):  # noqa: F811
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run("--on", "ray")
    assert done.exit_code == 1 and "pip install 'finetune-recipes[ray]'" in done.output


def test_two_threads_join_one_ray(monkeypatch):
    """What the chunks say is found in a thread while the first answers are checked: both may be the first to travel."""
    started = []
    fake = types.ModuleType("ray")
    fake.data, fake.__spec__ = types.ModuleType("ray.data"), ModuleSpec("ray", None)
    fake.init = lambda **_: (started.append(1), time.sleep(0.1))
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.data", fake.data)
    runner = OnRay()
    threads = [threading.Thread(target=runner._ray) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started == [1]
