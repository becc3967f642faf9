"""The coverage contract: what the documents define, how many questions each of it gets, and what stayed out and why.

A topic is a section; an item is one fact that code found in it (an option, a table row, a definition, a command ...).
Questions are dealt to sections in turns, so that a long page does not take the share of a short one (scaling by facts
covers evenly, scaling by tokens does not: Mecklenburg et al., arXiv 2404.00213).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dataset_builder.facts import Fact, facts
from dataset_builder.rows import Chunk, Dropped, Grounded, address, digest

ORDER = (
    "definition", "option", "default", "command", "steps", "how-to", "condition", "purpose", "cell", "code",
    "statement",
)  # fmt: skip
"""Within a section: what a reader looks up first, before what is merely said."""

Sections = Mapping[str, Sequence[tuple[Fact, Chunk]]]


def items(chunks: Iterable[Chunk]) -> dict[str, list[tuple[Fact, Chunk]]]:
    """Section -> its facts, best kinds first. Sections without any are there too; a repeated sentence counts once."""
    found: dict[str, list[tuple[Fact, Chunk]]] = {}
    answers: set[str] = set()
    for chunk in chunks:
        mine = found.setdefault(section_name(chunk), [])
        for fact in facts(chunk):
            key = " ".join(fact.answer.casefold().split())
            if key not in answers:  # READMEs repeat each other; the first place keeps the fact
                answers.add(key)
                mine.append((fact, chunk))
    for mine in found.values():
        mine.sort(key=lambda one: ORDER.index(one[0].kind))
    return found


def section_name(chunk: Chunk) -> str:
    return f"{address(chunk.origin)}: {chunk.section}"


def deal(sections: Sections, seed: int) -> Iterator[tuple[Fact, Chunk]]:
    """All facts, one of every section before a second of any; sections in an order that the seed decides."""
    names = sorted(sections, key=lambda name: digest(str(seed), name))
    depth = 0
    while turn := [sections[name][depth] for name in names if depth < len(sections[name])]:
        yield from turn
        depth += 1


def coverage_text(sections: Sections, pairs: Sequence[Grounded], dropped: Sequence[Dropped]) -> str:
    """coverage.md: what the documents define and what was asked, by kind and by section, and why the rest stayed
    out."""
    done = Counter(section_name(pair.chunk) for pair in pairs)
    found = Counter(fact.kind for mine in sections.values() for fact, _ in mine)
    asked = Counter(pair.pair.kind for pair in pairs)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for one in dropped:
        if "source" in one.item and "section" in one.item:
            reasons[f"{address(one.item['source'])}: {one.item['section']}"][one.reason.split(":")[0]] += 1
    covered = [name for name in sorted(sections) if done[name]]
    out = [name for name in sorted(sections) if not done[name]]
    kinds = [kind for kind in (*ORDER, *sorted(set(asked) - set(ORDER))) if found[kind] or asked[kind]]
    lines = [
        "# Coverage",
        "",
        f"{len(covered)} of {len(sections)} sections have at least one pair; {len(pairs)} pairs in all.",
        "",
        "| what the documents define | found | asked |",
        "|---|---:|---:|",
        *(f"| {kind} | {found[kind]} | {asked[kind]} |" for kind in kinds),
        "",
        "| section | facts found | pairs |",
        "|---|---:|---:|",
        *(f"| {_cell(name)} | {len(sections[name])} | {done[name]} |" for name in covered),
    ]
    if out:
        lines += [
            "",
            "## Not covered",
            "",
            "| section | why |",
            "|---|---|",
            *(f"| {_cell(name)} | {_why(sections[name], reasons[name])} |" for name in out),
        ]
    return "\n".join(lines) + "\n"


def _why(found: Sequence[tuple[Fact, Chunk]], reasons: Counter[str]) -> str:
    if reasons:
        return "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    if not found:
        return "no sentence, option, table row or command in it can stand alone"
    return "the number of pairs asked for was reached before its turn came"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
