"""Chunks: nothing lost, nothing broken, the same every time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dataset_builder.chunks import chunk, estimate_tokens, plain_heading, slug
from dataset_builder.materials import document

BLOCKS = st.sampled_from(
    [
        "# One",
        "## Two",
        "### Three",
        "Setext\n======",
        "A sentence. Another one, longer than the first. And a third!",
        "- item\n- another\n\n  with a paragraph\n\n  ```sh\n  ls -l\n  ```",
        "1. first\n2. second",
        "> quoted\n> text",
        "```python\n# not a heading\n\nprint('x')\n```",
        "~~~\n```\n~~~",
        "````md\n```\ninner\n```\n````",
        "| a | b |\n| - | - |\n| 1 | 2 |\n| 3 | 4 |",
        "    indented code\n\n    more",
        "<div>\n\nraw html\n\n</div>",
        "[ref]: http://example.org",
        "***",
        "word " * 80,
        "x" * 700,
        "ünïcode — 漢字。",
        "",
    ]
)
DOCUMENTS = st.lists(BLOCKS, max_size=30).map("\n\n".join)


def made(markdown: str, max_tokens: int = 60):
    item = document("docs/page.md", "Page", markdown)
    return item, chunk(item, max_tokens)


@given(DOCUMENTS, st.integers(1, 200))
def test_every_character_is_in_exactly_one_chunk(markdown, max_tokens):
    item, chunks = made(markdown, max_tokens)
    end = 0
    for piece in chunks:
        assert piece.text == item.markdown[piece.start : piece.end]
        assert piece.start >= end and not item.markdown[end : piece.start].strip()
        end = piece.end
    assert not item.markdown[end:].strip()


@given(st.text(max_size=2000), st.integers(1, 50))
def test_any_text_is_chunked_without_loss(markdown, max_tokens):
    item, chunks = made(markdown, max_tokens)
    assert "".join("".join(piece.text for piece in chunks).split()) == "".join(item.markdown.split())


@given(DOCUMENTS, st.integers(1, 200))
def test_no_code_fence_is_broken(markdown, max_tokens):
    item, chunks = made(markdown, max_tokens)
    lines = item.markdown.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    for token in MarkdownIt("commonmark").disable("html_block").parse(item.markdown):
        if token.type == "fence":
            first, last = starts[token.map[0]], starts[token.map[1]] - 1
            holders = [piece for piece in chunks if piece.start < last and piece.end > first]
            assert len(holders) == 1


@given(DOCUMENTS, st.integers(1, 200))
def test_chunks_are_the_same_every_time_and_ids_differ(markdown, max_tokens):
    _, chunks = made(markdown, max_tokens)
    assert chunks == made(markdown, max_tokens)[1]
    assert len({piece.id for piece in chunks}) == len(chunks)


@given(DOCUMENTS, st.integers(20, 200))
def test_only_what_cannot_be_broken_is_over_the_budget(markdown, max_tokens):
    _, chunks = made(markdown, max_tokens)
    for piece in chunks:
        body = "\n".join(line for line in piece.text.split("\n") if not re.match(r"#{1,6} |Setext|=+$", line)).strip()
        if estimate_tokens(body) > max_tokens:
            assert "```" in body or "~~~" in body or "    " in body or re.search(r"\S{80}", body), piece.text


def test_a_chunk_knows_the_headings_above_it():
    _, chunks = made(
        "# Guide\n\n## Install\n\n"
        + "Run it now. " * 30
        + "\n\n### On Linux\n\n"
        + "Use apt here. " * 30
        + "\n\n## Use\n\n"
        + "Call it. " * 40
    )
    sections = [piece.section for piece in chunks]
    assert sections[0] == "Guide > Install"
    assert "Guide > Install > On Linux" in sections
    assert sections[-1] == "Guide > Use"
    assert chunks[-1].anchor == "use"


def test_a_heading_stays_with_what_it_introduces():
    _, chunks = made("# A\n\n" + "word " * 100 + "\n\n## B\n\n```\n" + "code\n" * 200 + "```\n")
    assert chunks[-1].text.startswith("## B\n\n```") and chunks[-1].text.endswith("```")
    assert chunks[-1].heading_path == ("A", "B")


def test_a_long_table_is_broken_between_rows():
    rows = [f"| option_{number} | what option {number} does |" for number in range(60)]
    _, chunks = made("# T\n\n| name | meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    assert len(chunks) > 3
    assert [line for piece in chunks for line in piece.text.split("\n") if line.startswith("| option")] == rows


def test_tiny_sections_share_a_chunk_under_the_heading_that_is_true_of_both():
    _, chunks = made("# API\n\n## a\n\nOne.\n\n## b\n\n" + "Two words here. " * 8, 100)
    assert len(chunks) == 1 and chunks[0].heading_path == ("API",)


def test_a_hash_in_code_is_no_heading():
    _, chunks = made("# Real\n\n```sh\n# comment\n```\n")
    assert [piece.heading_path for piece in chunks] == [("Real",)]


def test_a_document_without_headings_stands_under_its_title():
    _, chunks = made("Only text.")
    assert chunks[0].section == "Page" and chunks[0].anchor == "page"


def test_an_empty_document_has_no_chunks():
    assert made("")[1] == [] and made(" \n\t\n")[1] == []


def test_a_counter_of_tokens_may_be_given():
    item = document("a", "a", "one two three four. five six seven eight.")
    assert [piece.tokens for piece in chunk(item, 4, lambda text: len(text.split()))] == [4, 4]


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        chunk(document("a", "a", "text"), 0)


def test_slug_and_plain_heading():
    assert slug("Set-up: `torch.xpu` & more") == "set-up-torchxpu-more"
    assert plain_heading("The [`lora_r`](x) *option* {#lora}") == "The lora_r option"
    assert plain_heading(r"Bindings for PyTorch\*") == "Bindings for PyTorch*"
    assert plain_heading("snake_case_name and `__init__`") == "snake_case_name and __init__"
