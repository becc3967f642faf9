"""Fixtures that several test modules share."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Before any test imports a library that would ask the network or report to somebody.
os.environ.update(HF_HUB_OFFLINE="1", LITELLM_LOCAL_MODEL_COST_MAP="True", AXOLOTL_DO_NOT_TRACK="1")


@pytest.fixture(scope="session")
def embedded_folder() -> Path:
    """The embedded model as a Hugging Face folder, converted on first use (`recipe prepare`)."""
    from compiler.embedded import FOLDER, prepare

    return prepare(ROOT / FOLDER)


@pytest.fixture(scope="session")
def embedded_gguf() -> Path:
    """The embedded model as llama.cpp serves it."""
    from dataset_builder.embedded import gguf_path

    return gguf_path(ROOT / ".cache")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset that was really built, to be copied: what a review opens."""
    from reviewed import PLACE, built, project
    from tests_scripted import weak

    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        project(folder, patch, weak)
        built()
    return folder / PLACE.folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of `whole`."""
    return Path(shutil.copytree(whole, tmp_path / "dataset"))
