"""Where a pair's quote stands."""

import json

import pytest

from dataset_builder.chunks import chunk
from dataset_builder.materials import document
from dataset_builder.places import evidence_text
from dataset_builder.rows import Grounded, Pair

FILE = "---\ntitle: Quay\n---\n# Quay\n\nA ledger is a table.\nIt keeps what was paid.\n\n## More\n\nThe end.\n"
BODY = FILE.split("---\n", 2)[2]
QUOTE = "A ledger is a table.\nIt keeps what was paid."


def grounded(page, quote):
    one = next(one for one in chunk(page, 400) if quote in one.text)
    start = one.text.index(quote)
    pair = Pair("a" * 16, one.id, "What is a ledger?", quote, quote, start, start + len(quote))
    return Grounded(pair, one)


def record(page, quote, root):
    return json.loads(evidence_text([grounded(page, quote)], [page], root))


def test_offsets_are_of_the_stored_markdown_and_lines_of_the_file(tmp_path):
    (tmp_path / "quay.md").write_text(FILE)
    page = document("quay.md", "Quay", BODY)
    found = record(page, QUOTE, tmp_path)
    assert page.markdown[found["start"] : found["end"]] == QUOTE and found["sha256"] == page.sha256
    assert page.markdown.splitlines()[found["lines"][0] - 1 : found["lines"][1]] == QUOTE.splitlines()
    assert found["where"] == "quay.md#L6-L7" and FILE.splitlines()[5:7] == QUOTE.splitlines()
    assert record(page, "The end.", tmp_path)["where"] == "quay.md#L11"


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        ("quay.md", FILE.replace("ledger", "**ledger**")),  # converted: its own lines differ
        ("quay.md", FILE + QUOTE + "\n"),  # twice: which one?
        ("https://host/quay.md", FILE),
        ("https://host/o/r@" + "0" * 40 + ":quay.md", FILE),
    ],
)
def test_no_line_is_claimed_that_was_not_seen(tmp_path, origin, text):
    (tmp_path / "quay.md").write_text(text)
    assert record(document(origin, "Quay", BODY), QUOTE, tmp_path)["where"] == f"{origin}#quay"


def test_a_quote_that_is_not_at_its_offsets_is_no_evidence(tmp_path):
    page = document("quay.md", "Quay", BODY)
    other = document("quay.md", "Quay", BODY.replace("table", "cable"))
    with pytest.raises(ValueError, match="does not hold its quote"):
        evidence_text([grounded(page, QUOTE)], [other], tmp_path)
