"""The coverage contract: what the documents define, how many questions each of it gets, and what stayed out and why.

A topic is a section; an item is one fact that code found in it (an option, a table row, a definition, a command ...);
names (flags, functions, error messages ...) are listed beside them (`names`).
Questions are dealt to sections in turns, so that a long page does not take the share of a short one (scaling by facts
covers evenly, scaling by tokens does not: Mecklenburg et al., arXiv 2404.00213).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from dataset_builder import names
from dataset_builder.facts import Fact
from dataset_builder.rows import Chunk, Dropped, Grounded, address
from dataset_builder.runner import HERE, Runner
from dataset_builder.sections import ORDER, Sections, section_name

NAMES_SHOWN = 40
"""Of one section in coverage.md; more are counted."""

def items(chunks: Sequence[Chunk], on: Runner = HERE, folder: Path | None = None) -> Sections:
    """Section -> its facts; `folder`: where they may lie for the time of the build."""
    return Sections(chunks, on, folder)


def deal(sections: Sections, seed: int) -> Iterator[tuple[Fact, Chunk]]:
    """All facts, one of every section before a second of any; sections in an order that the seed decides."""
    return sections.dealt(seed)


def shares(sections: Sections, wanted: int, seed: int) -> Counter[str]:
    """How many of `wanted` questions each section gets when they are dealt: one each in turns, as far as its facts
    reach."""
    return Counter(section_name(chunk) for _, chunk in islice(deal(sections, seed), wanted))


def coverage_text(sections: Sections, pairs: Sequence[Grounded], dropped: Sequence[Dropped], wanted: int,
                  seed: int = 0) -> Iterator[str]:  # fmt: skip
    """coverage.md: what the documents define and what was asked, by kind, name and section, and why the rest stayed
    out, line by line. `wanted`: the unique pairs that were asked for."""
    done = Counter(section_name(pair.chunk) for pair in pairs)
    found = sections.kinds()
    asked = Counter(pair.pair.kind for pair in pairs)
    covered = sum(name in sections for name in done)
    kinds = [kind for kind in (*ORDER, *sorted(set(asked) - set(ORDER))) if found[kind] or asked[kind]]
    yield from ("# Coverage\n", "\n")
    yield f"{covered} of {len(sections)} sections have at least one pair; {len(pairs)} pairs in all.\n"
    yield from ("\n", "| what the documents say | found | asked |\n", "|---|---:|---:|\n")
    yield from (f"| {kind} | {found[kind]} | {asked[kind]} |\n" for kind in kinds)
    yield "\n"
    yield from (f"{line}\n" for line in _names(sections, pairs))
    reached, share = len(pairs) >= wanted, shares(sections, wanted, seed)
    yield from (f"{line}\n" for line in _sections(sections, done, dropped, reached, share))


def _sections(sections: Sections, done: Counter[str], dropped: Sequence[Dropped], reached: bool,
              share: Mapping[str, int]) -> Iterator[str]:  # fmt: skip
    """Every section with its share, and why it has fewer pairs than that."""
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for one in dropped:
        if "source" in one.item and "section" in one.item:
            reasons[f"{address(one.item['source'])}: {one.item['section']}"][one.reason.split(":")[0]] += 1
    yield from ("## Sections", "", "A section's share is its part of the pairs asked for, dealt in turns.", "",
                "| section | facts found | share | pairs | why fewer |", "|---|---:|---:|---:|---|")  # fmt: skip
    for name, facts in sections.sizes():
        fewer = done[name] < max(1, share[name])
        why = _why(facts, share[name], reasons.get(name, Counter()), reached) if fewer else ""
        yield f"| {_cell(name)} | {facts} | {share[name]} | {done[name]} | {_cell(why)} |"


def _why(facts: int, share: int, reasons: Counter[str], reached: bool) -> str:
    if reasons:
        return "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    if not facts:
        return "no sentence, option, table row or command in it can stand alone"
    if not share:
        return "more sections than pairs asked for: its turn did not come"
    return "enough pairs came from other sections before its turn" if reached else "what is left repeats other pairs"


def _names(sections: Sections, pairs: Sequence[Grounded]) -> Iterator[str]:
    """What the documents name, by kind, and the names that no pair of their document mentions."""
    mentions = names.Mentions(pairs)
    defined, mentioned = Counter(), Counter()
    for _, name, document_id in sections.names():
        defined[name.kind] += 1
        mentioned[name.kind] += mentions.of(name, document_id)
    if not defined:
        return
    yield from ("| names | found | mentioned in a pair |", "|---|---:|---:|")
    yield from (f"| {kind} | {defined[kind]} | {mentioned[kind]} |" for kind in names.KINDS if defined[kind])
    if defined != mentioned:
        yield from ("", "## Names that no pair mentions", "", "| section | names |", "|---|---|")
    for section, mine in groupby(sections.names(), key=itemgetter(0)):  # anew: they may be millions
        if missing := [name.text for _, name, document_id in mine if not mentions.of(name, document_id)]:
            yield f"| {_cell(section)} | {_listed(missing)} |"
    yield ""


def _listed(found: Sequence[str]) -> str:
    shown = ", ".join(f"`{_cell(text.replace('`', ''))}`" for text in found[:NAMES_SHOWN])
    return shown + (f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
