"""What people decided, held against the documents as they are now.

A decision lives as long as its quote: while the document holds it, the verdict holds, whatever else of the page, the
model or the prompts has changed. Where the document is gone, the decision follows its section to the document that has
it now. Where the quote is gone, or an accepted or edited text is no longer proven by what stands around it, the
decision retires: it is said, stays in the file, and comes back with the text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dataset_builder import pairs
from dataset_builder.evidence import locate
from dataset_builder.review.decisions import Decision, Decisions, Wording, key, key_of
from dataset_builder.rows import Chunk, Document, Dropped, Grounded, Pair, address, digest

DECIDED_AGAIN = "they stand in another document now, where they were decided again"


@dataclass(frozen=True, slots=True)
class Settled:
    """Decisions by what they mean for a build; the keys are those of the pairs as they were before any edit."""

    kept: Mapping[str, Grounded] = field(default_factory=dict)
    """Accepted pairs and edited ones, as they are to be."""
    rejected: Mapping[str, Grounded] = field(default_factory=dict)
    retired: Mapping[str, str] = field(default_factory=dict)
    """Key -> why."""
    decisions: Decisions = field(default_factory=dict)
    """All of them."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """Key of a pair where it stands now -> key of the decision that followed it there."""

    def name_of(self, one: Grounded) -> str:
        """The key of the decision about a pair, whether there is one or not."""
        name = key(one)
        return self.moved.get(name, name)

    def count(self, verdict: str) -> int:
        """Decisions with this verdict that hold."""
        return sum(one.verdict == verdict and key not in self.retired for key, one in self.decisions.items())

    def dropped(self) -> list[Dropped]:
        """The rejected pairs, for dropped.jsonl."""
        return [_dropped(one, self.decisions[key].note) for key, one in sorted(self.rejected.items())]

    def notes(self) -> list[str]:
        """Sentences for the card; none where nothing was decided."""
        if not self.decisions:
            return []
        counts = (f"{self.count(name):,} {name}ed" for name in ("accept", "edit", "reject"))
        return [f"Reviewed by people: {', '.join(counts)}.", *self.sentences()]

    def sentences(self) -> list[str]:
        """What moved and what retired, for the card and the terminal."""
        followed = [f"Decisions of the review that followed their text to another document: {len(self.moved):,}."]
        return (followed if self.moved else []) + self._retired()

    def _retired(self) -> list[str]:
        if not self.retired:
            return []
        reasons: dict[str, int] = defaultdict(int)
        for why in self.retired.values():
            reasons[why.split(":")[0]] += 1
        told = "; ".join(f"{count:,} because {why}" for why, count in sorted(reasons.items()))
        return [f"Decisions of the review that no longer hold: {told}. They stay in review.jsonl."]


def settle(decisions: Decisions, chunks: Iterable[Chunk], documents: Iterable[Document]) -> Settled:
    """What decisions mean for these chunks, some or all of those of the documents."""
    if not decisions:
        return Settled()
    homes: dict[str, list[Chunk]] = {one.document: [] for one in decisions.values()}
    gone = homes.keys() - {address(one.origin) for one in documents}
    sections: dict[str, list[Chunk]] = {one.section: [] for one in decisions.values() if one.document in gone}
    for chunk in chunks:
        if (document := address(chunk.origin)) in homes:
            homes[document].append(chunk)
        if chunk.section in sections:
            sections[chunk.section].append(chunk)
    kept: dict[str, Grounded] = {}
    rejected: dict[str, Grounded] = {}
    retired: dict[str, str] = {}
    moved: dict[str, str] = {}
    for name, one in sorted(decisions.items()):
        there = homes[one.document]
        if one.document in gone:
            there = _first_document([chunk for chunk in sections[one.section] if one.quote in chunk.text])
        found = _found(one, there)
        if one.document in gone and not isinstance(found, str):
            new = key_of(one.question, one.answer, found.chunk.origin)
            found = DECIDED_AGAIN if new in decisions or new in moved else found
            moved |= {} if found is DECIDED_AGAIN else {new: name}
        if isinstance(found, str):
            retired[name] = found
        else:
            (rejected if one.verdict == "reject" else kept)[name] = found
    return Settled(kept, rejected, retired, decisions, moved)


def _first_document(chunks: Sequence[Chunk]) -> Sequence[Chunk]:
    """Those of one document, the first by its address."""
    first = min((address(one.origin) for one in chunks), default="")
    return [one for one in chunks if address(one.origin) == first]


def _found(one: Decision, chunks: Sequence[Chunk]) -> Grounded | str:
    """The pair as the decision wants it, or why that cannot be."""
    holding = [chunk for chunk in chunks if one.quote in chunk.text] or [
        chunk for chunk in chunks if locate(one.quote, chunk.text)
    ]
    # the very chunk that was read comes first: there the builder had accepted the pair by all of its own checks
    holding.sort(key=lambda chunk: digest(one.question, one.answer, chunk.id) != one.id)
    if not holding:
        return "their quote is no longer in the documents" if chunks else "their document is gone"
    if one.edited is not None:
        return _first(_edited(one, chunk) for chunk in holding)
    made = [_as_it_was(one, chunk) for chunk in holding]
    if one.verdict == "reject" or made[0].pair.id == one.id:
        return made[0]
    proven = (pairs.by_person(one.question, one.answer, one.quote, chunk) for chunk in holding)
    first = _first(proven)
    return first if isinstance(first, str) else _as_it_was(one, first.chunk)


def _first(tried: Iterable[Grounded | str]) -> Grounded | str:
    """The first that passes its checks, or why the first of all does not."""
    problem = ""
    for found in tried:
        if not isinstance(found, str):
            return found
        problem = problem or f"the text around their quote no longer proves them: {found}"
    return problem


def _as_it_was(one: Decision, chunk: Chunk) -> Grounded:
    start = chunk.text.find(one.quote)
    start, end = (start, start + len(one.quote)) if start >= 0 else locate(one.quote, chunk.text)
    name = digest(one.question, one.answer, chunk.id)
    pair = Pair(name, chunk.id, one.question, one.answer, chunk.text[start:end], start, end, one.kind)
    return Grounded(pair, chunk, one.worded_by, one.wordings, one.subject, one.proof)


def _edited(one: Decision, chunk: Chunk) -> Grounded | str:
    """The edited pair with what still holds of the one it was made from."""
    made = pairs.by_person(one.edited.question, one.edited.answer, one.edited.quote, chunk)
    if isinstance(made, str):
        return made
    said = f"{made.pair.question}\n{made.pair.answer}".casefold()
    subject = one.subject if one.subject.casefold() in said else ""
    return replace(made, pair=replace(made.pair, kind=one.kind), subject=subject)


def decided(grounded: Grounded, verdict: str, edited: Wording | None = None, note: str = "") -> Decision:
    """A verdict on a pair that a build has found."""
    pair, chunk = grounded.pair, grounded.chunk
    return Decision(verdict, pair.id, address(chunk.origin), chunk.section, pair.question, pair.answer, pair.quote,
                    pair.kind, grounded.worded_by, grounded.wordings, grounded.subject, grounded.proof, edited, note)


def _dropped(one: Grounded, note: str) -> Dropped:
    item = {"question": one.pair.question, "answer": one.pair.answer, "quote": one.pair.quote,
            "source": one.chunk.origin, "section": one.chunk.section}  # fmt: skip
    return Dropped("review", "rejected in review" + (f": {note}" if note else ""), item)
