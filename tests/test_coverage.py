"""Coverage: every section gets its share, and what stays out is named with its reason."""

from dataset_builder.chunks import chunk
from dataset_builder.coverage import coverage_text, deal, items, section_name, shares
from dataset_builder.materials import document
from dataset_builder.names import names, unmentioned
from dataset_builder.rows import Dropped, Grounded, Pair

LONG = "# Long\n\n" + "\n\n".join(f"A widget{number} is a small part of the long machine." for number in range(9))
SHORT = "# Short\n\nA gadget is a small part of the short machine."
EMPTY = "# Empty\n\nSee the other pages."


def sections():
    pages = {"long.md": LONG, "short.md": SHORT, "empty.md": EMPTY}
    return items([one for name, text in pages.items() for one in chunk(document(name, name, text), 400)])


def test_every_section_is_listed_even_one_that_says_nothing():
    assert [len(mine) for mine in sections().values()] == [9, 1, 0]


def test_a_short_page_has_its_turn_before_a_long_one_has_its_second():
    first_two = [chunk.title for _, chunk in list(deal(sections(), 0))[:2]]
    assert sorted(first_two) == ["long.md", "short.md"]


def test_a_sentence_that_stands_in_two_documents_counts_once():
    twice = items([one for name in ("a.md", "b.md") for one in chunk(document(name, name, SHORT), 400)])
    assert [len(mine) for mine in twice.values()] == [1, 0]


def test_what_stays_out_is_named_with_its_reason():
    found = sections()
    ((fact, chunk_), *_) = found["long.md: Long"]
    one = Grounded(Pair("1", chunk_.id, fact.question, fact.answer, "q", 0, 1, fact.kind), chunk_)
    dropped = Dropped("questions", "not one question: 'Hm'", {"source": "short.md", "section": "Short"})
    text = "".join(coverage_text(found, [one], [dropped], 3))
    assert section_name(chunk_) == "long.md: Long"
    assert "1 of 3 sections have at least one pair" in text
    assert "| definition | 10 | 1 |" in text
    assert "| long.md: Long | 9 | 2 | 1 | what is left repeats other pairs |" in text
    assert "| short.md: Short | 1 | 1 | 0 | not one question (1) |" in text
    assert "| empty.md: Empty | 0 | 0 | 0 | no sentence, option, table row or command in it can stand alone |" in text


def test_every_section_has_its_share_or_a_reason():
    found = sections()
    assert shares(found, 3, 0) == {"long.md: Long": 2, "short.md: Short": 1}
    assert shares(found, 1000, 0).total() == 10
    for line in "".join(coverage_text(found, [], [], 3)).splitlines():
        if line.startswith("| ") and ".md: " in line:
            assert line.rstrip(" |").split("| ")[-1].strip()[:1].isalpha(), line


NAMED = """# Tool

Pass `--bf16` or `--ipex` and set `lora_r`. Call `torch.xpu.empty_cache()` where `IPEX_TILE_AS_DEVICE=1` is set.

    RuntimeError: Native API failed with code -5

| Option | Meaning |
|---|---|
| beam width | How many beams the search keeps. |
"""


def test_names_are_found_by_how_they_are_written():
    (one,) = chunk(document("tool.md", "Tool", NAMED), 400)
    assert [(name.kind, name.text) for name in names(one)] == [
        ("flag", "--bf16"), ("flag", "--ipex"), ("option", "lora_r"), ("environment variable", "IPEX_TILE_AS_DEVICE"),
        ("function", "torch.xpu.empty_cache()"), ("error message", "RuntimeError: Native API failed with code -5"),
        ("table row", "beam width"),
    ]  # fmt: skip


def test_names_that_no_pair_mentions_are_listed_and_the_others_are_not():
    (one,) = chunk(document("tool.md", "Tool", NAMED), 400)
    answer = "Set `lora_r`, pass `--bf16`; torch.xpu.empty_cache() frees memory, not --ipexx."
    pair = Grounded(Pair("1", one.id, "What is the beam width?", answer, "q", 0, 1), one)
    text = "".join(coverage_text(items([one]), [pair], [], 1))
    (line,) = [line for line in text.splitlines() if "--ipex" in line]
    assert "`--ipex`, `IPEX_TILE_AS_DEVICE`, `RuntimeError: Native API failed with code -5`" in line
    assert not any(name in line for name in ("lora_r", "bf16", "empty_cache", "beam width"))
    assert "| flag | 2 | 1 |" in text and "| error message | 1 | 0 |" in text


def test_a_chunk_is_asked_again_for_names_that_no_pair_mentions():
    (one,) = chunk(document("tool.md", "Tool", NAMED), 400)
    pair = Grounded(Pair("1", one.id, "What does `--bf16` do?", "It is a flag.", "q", 0, 1), one)
    assert unmentioned(one, [pair])[:2] == ["--ipex", "lora_r"]
