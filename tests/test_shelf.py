"""Documents, chunks and facts on disk: they come back as they were, in their order, and nothing is left behind."""

import pytest

from dataset_builder import shelf
from dataset_builder.problems import BuildProblem
from dataset_builder.shelf import Shelf


def test_rows_come_back_as_they_were_from_memory_and_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "WRITE_BYTES", 100)
    rows = [("row", number, "\ud800" * number) for number in range(40)]
    kept = Shelf(rows, tmp_path)
    assert list(kept) == rows and len(kept) == 40
    assert kept[-1] == rows[-1] and kept[3:30:7] == rows[3:30:7]
    with pytest.raises(IndexError):
        kept[40]
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "WRITE_BYTES", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildProblem, match="cannot be kept there"):
        Shelf(["row"], tmp_path / "file" / "folder")
