"""The coverage contract: what the documents define, how many questions each of it gets, and what stayed out and why.

A topic is a section; an item is one fact that code found in it (an option, a table row, a definition, a command ...);
names (flags, functions, error messages ...) are listed beside them (`names`).
Questions are dealt to sections in turns, so that a long page does not take the share of a short one (scaling by facts
covers evenly, scaling by tokens does not: Mecklenburg et al., arXiv 2404.00213).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from dataset_builder import names
from dataset_builder.facts import Fact, facts, topic
from dataset_builder.rows import Chunk, Dropped, Grounded, address, digest
from dataset_builder.split import same

ORDER = (
    "definition", "option", "default", "command", "steps", "how-to", "condition", "purpose", "cell", "code",
    "statement",
)  # fmt: skip
"""Within a section: what a reader looks up first, before what is merely said."""

NAMES_SHOWN = 40
"""Of one section in coverage.md; more are counted."""

MOST_SHARED = 2
"""Facts that may have one template's question, told apart by their pages; what more of them share asks for nothing."""

Sections = Mapping[str, Sequence[tuple[Fact, Chunk]]]


def items(chunks: Iterable[Chunk]) -> dict[str, list[tuple[Fact, Chunk]]]:
    """Section -> its facts, best kinds first. Sections without any are there too; a repeated sentence counts once.

    A template's question that several facts share ("What does the library provide?") asks for none of them: each is
    set under its page's title if they are few and that tells them apart, else left for a model to word.
    """
    found: dict[str, list[tuple[Fact, Chunk]]] = {}
    answers: set[str] = set()
    for chunk in chunks:
        mine = found.setdefault(section_name(chunk), [])
        for fact in facts(chunk):
            key = " ".join(fact.answer.casefold().split())
            if key not in answers:  # READMEs repeat each other; the first place keeps the fact
                answers.add(key)
                mine.append((fact, chunk))
    everywhere = Counter(same(fact.question) for mine in found.values() for fact, _ in mine)
    in_place = Counter(same(_placed(fact, chunk)) for mine in found.values() for fact, chunk in mine)
    for mine in found.values():
        for place, (fact, chunk) in enumerate(mine):
            if fact.question and everywhere[same(fact.question)] > 1:
                question = _placed(fact, chunk)
                tells = in_place[same(question)] == 1 and everywhere[same(fact.question)] <= MOST_SHARED
                mine[place] = replace(fact, question=question if tells else ""), chunk
        mine.sort(key=lambda one: ORDER.index(one[0].kind))
    return found


def _placed(fact: Fact, chunk: Chunk) -> str:
    """The fact's question under the title of its page, where it does not stand there already."""
    where = topic(chunk)
    if not fact.question or not where or where.casefold() in fact.question.casefold():
        return fact.question
    return f'About "{where}": {fact.question[0].lower()}{fact.question[1:]}'


def section_name(chunk: Chunk) -> str:
    return f"{address(chunk.origin)}: {chunk.section}"


def deal(sections: Sections, seed: int) -> Iterator[tuple[Fact, Chunk]]:
    """All facts, one of every section before a second of any; sections in an order that the seed decides."""
    names = sorted(sections, key=lambda name: digest(str(seed), name))
    depth = 0
    while turn := [sections[name][depth] for name in names if depth < len(sections[name])]:
        yield from turn
        depth += 1


def shares(sections: Sections, wanted: int, seed: int) -> Counter[str]:
    """How many of `wanted` questions each section gets when they are dealt: one each in turns, as far as its facts
    reach."""
    return Counter(section_name(chunk) for _, chunk in islice(deal(sections, seed), wanted))


def coverage_text(sections: Sections, pairs: Sequence[Grounded], dropped: Sequence[Dropped],
                  chunks: Sequence[Chunk], wanted: int, seed: int = 0) -> str:  # fmt: skip
    """coverage.md: what the documents define and what was asked, by kind, name and section, and why the rest stayed
    out. `wanted`: the unique pairs that were asked for."""
    done = Counter(section_name(pair.chunk) for pair in pairs)
    found = Counter(fact.kind for mine in sections.values() for fact, _ in mine)
    asked = Counter(pair.pair.kind for pair in pairs)
    covered = sum(bool(done[name]) for name in sections)
    kinds = [kind for kind in (*ORDER, *sorted(set(asked) - set(ORDER))) if found[kind] or asked[kind]]
    lines = [
        "# Coverage",
        "",
        f"{covered} of {len(sections)} sections have at least one pair; {len(pairs)} pairs in all.",
        "",
        "| what the documents say | found | asked |",
        "|---|---:|---:|",
        *(f"| {kind} | {found[kind]} | {asked[kind]} |" for kind in kinds),
        "",
        *_names(chunks, pairs),
        *_sections(sections, done, dropped, len(pairs) >= wanted, shares(sections, wanted, seed)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _sections(sections: Sections, done: Counter[str], dropped: Sequence[Dropped], reached: bool,
              share: Mapping[str, int]) -> list[str]:  # fmt: skip
    """Every section with its share, and why it has fewer pairs than that."""
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for one in dropped:
        if "source" in one.item and "section" in one.item:
            reasons[f"{address(one.item['source'])}: {one.item['section']}"][one.reason.split(":")[0]] += 1
    lines = ["## Sections", "", "A section's share is its part of the pairs asked for, dealt in turns.", "",
             "| section | facts found | share | pairs | why fewer |", "|---|---:|---:|---:|---|"]  # fmt: skip
    for name in sorted(sections):
        fewer = done[name] < max(1, share[name])
        why = _why(sections[name], share[name], reasons[name], reached) if fewer else ""
        lines.append(f"| {_cell(name)} | {len(sections[name])} | {share[name]} | {done[name]} | {_cell(why)} |")
    return lines


def _why(found: Sequence[tuple[Fact, Chunk]], share: int, reasons: Counter[str], reached: bool) -> str:
    if reasons:
        return "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    if not found:
        return "no sentence, option, table row or command in it can stand alone"
    if not share:
        return "more sections than pairs asked for: its turn did not come"
    return "enough pairs came from other sections before its turn" if reached else "what is left repeats other pairs"


def _names(chunks: Sequence[Chunk], pairs: Sequence[Grounded]) -> list[str]:
    """What the documents name, by kind, and the names that no pair of their document mentions."""
    mentions = names.Mentions(pairs)
    defined, mentioned = Counter(), Counter()
    missing: dict[str, list[str]] = {}
    for section, mine in names.by_section(chunks, section_name).items():
        for name, chunk in mine.items():
            defined[name.kind] += 1
            if mentions.of(name, chunk):
                mentioned[name.kind] += 1
            else:
                missing.setdefault(section, []).append(name.text)
    if not defined:
        return []
    lines = ["| names | found | mentioned in a pair |", "|---|---:|---:|"]
    lines += [f"| {kind} | {defined[kind]} | {mentioned[kind]} |" for kind in names.KINDS if defined[kind]]
    if missing:
        lines += ["", "## Names that no pair mentions", "", "| section | names |", "|---|---|"]
        lines += [f"| {_cell(section)} | {_listed(missing[section])} |" for section in sorted(missing)]
    return [*lines, ""]


def _listed(found: Sequence[str]) -> str:
    shown = ", ".join(f"`{_cell(text.replace('`', ''))}`" for text in found[:NAMES_SHOWN])
    return shown + (f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
