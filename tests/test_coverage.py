"""Coverage: every section gets its share, and what stays out is named with its reason."""

from dataset_builder.chunks import chunk
from dataset_builder.coverage import coverage_text, deal, items, section_name
from dataset_builder.materials import document
from dataset_builder.rows import Dropped, Grounded, Pair

LONG = "# Long\n\n" + "\n\n".join(f"A widget{number} is a small part of the long machine." for number in range(9))
SHORT = "# Short\n\nA gadget is a small part of the short machine."
EMPTY = "# Empty\n\nSee the other pages."


def sections():
    pages = {"long.md": LONG, "short.md": SHORT, "empty.md": EMPTY}
    return items(one for name, text in pages.items() for one in chunk(document(name, name, text), 400))


def test_every_section_is_listed_even_one_that_says_nothing():
    assert [len(mine) for mine in sections().values()] == [9, 1, 0]


def test_a_short_page_has_its_turn_before_a_long_one_has_its_second():
    first_two = [chunk.title for _, chunk in list(deal(sections(), 0))[:2]]
    assert sorted(first_two) == ["long.md", "short.md"]


def test_a_sentence_that_stands_in_two_documents_counts_once():
    twice = items(one for name in ("a.md", "b.md") for one in chunk(document(name, name, SHORT), 400))
    assert [len(mine) for mine in twice.values()] == [1, 0]


def test_what_stays_out_is_named_with_its_reason():
    found = sections()
    ((fact, chunk_), *_) = found["long.md: Long"]
    one = Grounded(Pair("1", chunk_.id, fact.question, fact.answer, "q", 0, 1, fact.kind), chunk_)
    dropped = Dropped("questions", "not one question: 'Hm'", {"source": "short.md", "section": "Short"})
    text = coverage_text(found, [one], [dropped])
    assert section_name(chunk_) == "long.md: Long"
    assert "1 of 3 sections have at least one pair" in text
    assert "| definition | 10 | 1 |" in text
    assert "| long.md: Long | 9 | 1 |" in text
    assert "| short.md: Short | not one question (1) |" in text
    assert "| empty.md: Empty | no sentence, option, table row or command in it can stand alone |" in text
