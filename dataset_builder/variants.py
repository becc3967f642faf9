"""From split pairs to rows: views of each fact, the held-out wordings, and questions whose honest answer is that the
documents do not say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dataset_builder import views
from dataset_builder.comparison import comparison, partners
from dataset_builder.evidence import code_problem
from dataset_builder.identifiers import exact_words, missing_words
from dataset_builder.pairs import view_problem
from dataset_builder.rows import Dropped, Grounded, Row, digest
from dataset_builder.split import Split, same
from dataset_builder.views import Corpus, View
from dataset_builder.wording import grounds


@dataclass(frozen=True, slots=True)
class Rows:
    train: tuple[Row, ...]
    recall: tuple[Row, ...]
    transfer: tuple[Row, ...]
    dropped: tuple[Dropped, ...]
    missing: int
    """Rows that are short of the target."""


def rows(
    parts: Split,
    known: Corpus,
    total: int,
    not_in_docs: float,
    system: str | None,
    wordings: Wordings | None = None,
) -> Rows:
    """All rows. `wordings`: of the pairs that are trained, where some of them were found before."""
    dropped: list[Dropped] = []
    taken = {same(pair.pair.question) for pair in parts.transfer}
    wordings = wordings or Wordings(parts.train, known)
    found = {}
    for one in parts.train:
        kept, lost = wordings.of(one)
        dropped += lost
        found[one.pair.id] = [view for view in kept if same(view[1]) not in taken]
    held = _held_out(parts, found)
    taken |= {same(view[1]) for _, view in held}
    trainable = [
        [(one, view) for view in found[one.pair.id] if same(view[1]) not in taken] for one in parts.train
    ]
    absent = round(total * not_in_docs)
    chosen = _fill(_each_once(trainable), total - absent)
    train = [row(grounded, view, system) for grounded, view in chosen]
    # where rows run out, the share is still one of the rows there are
    absent = min(absent, round(len(train) * not_in_docs / (1 - not_in_docs)))
    train += not_in_documents(list(parts.train), known, absent, system)
    transfer = tuple(
        row(grounded, ("direct", grounded.pair.question, grounded.pair.answer), system) for grounded in parts.transfer
    )
    return Rows(
        tuple(sorted(train, key=lambda one: digest(one.parent, one.id))),
        tuple(sorted((row(*item, system) for item in held), key=lambda one: one.id)),
        transfer,
        tuple(dropped),
        max(0, total - len(train)),
    )


def with_existing(made: Rows, existing: Sequence[Row], shares: Mapping[str, float]) -> tuple[Rows, tuple[str, ...]]:
    """The rows and those taken over from elsewhere, except where they ask what is held out; and what is short of them.
    `shares`: place of a source -> its part of the finished table, of the rows that there are and not of those that were
    asked for."""
    held = {same(row.instruction) for row in (*made.recall, *made.transfer)}
    sources: dict[str, list[Row]] = {place: [] for place in shares}
    for row in existing:
        if same(row.instruction) not in held:
            sources.setdefault(row.source.rpartition("#")[0], []).append(row)
    others = len(made.train) + sum(len(found) for place, found in sources.items() if place not in shares)
    finished, short = others / (1 - sum(shares.values())), []
    for place, share in shares.items():
        found, wanted = sources[place], round(share * finished)
        if len(found) < wanted:
            short.append(f"{len(found):,} of {wanted:,} rows of {place}, {wanted - len(found):,} missing: it holds no "
                         f"more that can be used, and `share: {share:g}` of the table asks for them")  # fmt: skip
        else:
            sources[place] = [found[number * len(found) // wanted] for number in range(wanted)]
    taken = {row.id for found in sources.values() for row in found}
    return replace(made, train=(*made.train, *(row for row in existing if row.id in taken))), tuple(short)


def _each_once(trainable: Sequence[Sequence[tuple[Grounded, View]]]) -> list[list[tuple[Grounded, View]]]:
    """The views of each pair without those that say what another pair's view says: left out before rows are counted, so
    that others take their place. Of two pairs the one of the lower id keeps it, whatever the order."""
    owner: dict[tuple[str, str], str] = {}
    for one, (_, question, answer) in (item for found in trainable for item in found):
        owner[question, answer] = min(owner.get((question, answer), one.pair.id), one.pair.id)
    return [[item for item in found if owner[item[1][1:]] == item[0].pair.id] for found in trainable]


class Wordings:
    """The views of trained pairs that keep their facts, each found once: beside waiting for a model, where one writes
    some of them, since a pair's views depend on no other answer."""

    def __init__(self, train: Sequence[Grounded], known: Corpus) -> None:
        self._known = known
        self._beside = partners(train)
        self._found: dict[str, tuple[list[View], list[Dropped]]] = {}

    def of(self, one: Grounded, by_model: Sequence[View] = ()) -> tuple[list[View], list[Dropped]]:
        """What is kept, and what is not and why. `by_model`: views that a model wrote; they come before those of
        code. Said the first time."""
        if one.pair.id not in self._found:
            self._found[one.pair.id] = _views(one, self._known, by_model, self._beside.get(one.pair.id))
        return self._found[one.pair.id]


def _views(
    grounded: Grounded, known: Corpus, by_model: Sequence[View], other: Grounded | None
) -> tuple[list[View], list[Dropped]]:
    """All views of a pair that keep its fact, each question with its answer once and the first ones of different kinds,
    and those that do not keep it. `other`: what it is compared with."""
    made = views.all_views(grounded, known)
    compared = [comparison(grounded, other)] if other else []
    found = [made[0], *by_model, *compared, *made[1:]]
    kept: list[View] = []
    said: set[tuple[str, str]] = set()
    dropped: list[Dropped] = []
    for view in found:
        problem = drift(grounded, view, other if view[0] == "comparison" else None)
        if problem is None and view in by_model:  # its answer is not the document's own sentence
            problem = view_problem(grounded, view)
        if problem is None and view[1:] not in said:
            said.add(view[1:])
            kept.append(view)
        elif problem:
            dropped.append(
                Dropped(
                    "variants",
                    problem,
                    {"parent": grounded.pair.id, "view": view[0], "question": view[1], "answer": view[2]},
                )
            )
    return _alternating(kept), dropped


def _alternating(kept: list[View]) -> list[View]:
    """One of each view before a second of any: a fact's first rows differ in kind."""
    order: dict[str, int] = {}
    numbered = []
    for place, view in enumerate(kept):
        turn = order.get(view[0], 0)
        order[view[0]] = turn + 1
        numbered.append((turn, place, view))
    return [view for _, _, view in sorted(numbered, key=lambda one: one[:2])]


def drift(grounded: Grounded, view: View, other: Grounded | None = None) -> str | None:
    """Why a view no longer says what its parent says, or None. `other`: the second parent of a comparison."""
    name, question, answer = view
    if len(question.strip()) < 3 or not answer.strip():
        return "empty"
    parent = f"{grounded.pair.question}\n{grounded.pair.answer}"
    known = f"{parent}\n{grounded.pair.quote}"
    if other is not None:
        known += f"\n{other.pair.question}\n{other.pair.answer}\n{other.pair.quote}"
    headings = "\n".join((grounded.chunk.title, *grounded.chunk.heading_path))
    if invented := missing_words(answer, f"{known}\n{headings}"):
        return "answer names what its parent does not: " + ", ".join(invented[:3])
    asked = exact_words(grounded.pair.question)
    if lost := asked - exact_words(f"{question}\n{answer}"):
        return "lost what the parent asks for: " + ", ".join(sorted(lost)[:3])
    figures = {word for word in exact_words(grounded.pair.answer) if re.search(r"\d", word)}
    if name not in {"reversed", "completion"} and figures - exact_words(answer) and len(figures) <= 3:
        return "lost a figure of the parent's answer"
    if name != "true-false" and (foreign := missing_words(question, f"{known}\n{grounds(grounded.chunk)}")):
        return "question names what the source does not: " + ", ".join(foreign[:3])
    return code_problem(answer, grounds(grounded.chunk))


def _held_out(parts: Split, found: dict[str, list[View]]) -> list[tuple[Grounded, View]]:
    """One wording of each pair of `parts.recall`; where a pair has none to spare, one of the reserve stands in."""
    by_id = {one.pair.id: one for one in parts.train}
    held: list[tuple[Grounded, View]] = []
    for name in (*sorted(parts.recall), *parts.reserve):
        spare = _spare(found[name]) if len(held) < len(parts.recall) else None
        if spare is not None:
            held.append((by_id[name], spare))
    return held


def _spare(found: list[View]) -> View | None:
    """The wording to hold out: a reworded question of plain grammar, so that recall is measured and not spelling."""
    spares = [view for view in found if view[0] == "reworded"]
    return spares[0] if spares and len(found) >= 3 else None


def _fill(trainable: Sequence[Sequence[tuple[Grounded, View]]], total: int) -> list[tuple[Grounded, View]]:
    """Round by round, one more row of every fact that has one left, until `total` are there. The last round takes
    facts by digest."""
    chosen: list[tuple[Grounded, View]] = []
    depth = 0
    while len(chosen) < total:
        turn = [found[depth] for found in trainable if depth < len(found)]
        if not turn:
            break
        if len(chosen) + len(turn) > total:
            turn = sorted(turn, key=lambda item: digest(item[0].pair.id, "last"))[: total - len(chosen)]
        chosen += turn
        depth += 1
    return chosen


def row(grounded: Grounded, view: View, system: str | None) -> Row:
    """One line of the CSV; the parent's own id where it is the parent itself."""
    name, question, answer = view
    pair, chunk = grounded.pair, grounded.chunk
    own = (question, answer) == (pair.question, pair.answer)
    source = chunk.origin + (f"#{chunk.anchor}" if chunk.anchor else "")
    return Row(
        question,
        "",
        answer,
        chat(question, answer, system),
        pair.id if own else digest(pair.id, name, question, answer),
        pair.id,
        name,
        pair.quote,
        source,
        chunk.section,
        chunk.licence or "",
        chunk.sha256,
    )


def chat(question: str, answer: str, system: str | None) -> str:
    """The `messages` column."""
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps(turns, ensure_ascii=False)


def not_in_documents(train: Sequence[Grounded], known: Corpus, count: int, system: str | None) -> list[Row]:
    """Questions about names that occur nowhere in the corpus, made from those that do; the answer says so and names
    the real one."""
    found: list[Row] = []
    seen: set[str] = set()
    for turn in range(3):
        for grounded in sorted(train, key=lambda one: digest(one.pair.id, "absent")):
            if len(found) >= count:
                return found
            made = _absent(grounded, known, turn)
            if made is not None and made[0] not in seen:
                seen.add(made[0])
                line = row(grounded, ("not-in-docs", *made), system)
                found.append(line)
    return found


_TAILS = ("mode", "level", "policy", "path", "limit", "format", "backend", "timeout")


def _absent(grounded: Grounded, known: Corpus, turn: int) -> tuple[str, str] | None:
    """(question, answer) about an invented relative of a real name; None where the pair names nothing to start from."""
    told = f"{grounded.pair.question} {grounded.pair.answer}"
    match = re.search(r"(?<!`)`(-{0,2}[A-Za-z][\w-]{1,29}[A-Za-z0-9])`(?!`)", told)
    if match is None:
        return None
    real = match[1]
    tail = _TAILS[(int(digest(grounded.pair.id, "tail"), 16) + turn) % len(_TAILS)]
    joint = "-" if real.startswith("-") or ("-" in real and "_" not in real) else "_"
    made = real + joint + (tail.upper() if real.isupper() else tail)
    low = made.casefold()
    if known.holds(low):
        return None
    asks = ("What does `{x}` do?", "What is the default of `{x}`?", "How do I set `{x}`?")[turn]
    return asks.format(x=made), f"The documentation does not mention `{made}`. It does describe `{real}`."
