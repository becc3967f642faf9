"""A judge that sees the text: a second model reads each pair beside its chunk and says whether the answer answers the
question and stands there. Code has checked quotes, numbers and names before; what is left is meaning.

Nobody's verdict is taken on trust. The judge is tried first on canaries, pairs of known verdict that code makes from
the corpus itself; one that lets bad ones through, or throws good ones away, is not used.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dataset_builder import prompting
from dataset_builder.engine import BadReply, Engine
from dataset_builder.facts import Fact
from dataset_builder.identifiers import exact_words
from dataset_builder.ledger import Reply, Request
from dataset_builder.replies import without_thoughts
from dataset_builder.rows import Chunk, Dropped, Grounded, digest
from dataset_builder.spec import Generator
from dataset_builder.wording import content_stems, grounds, template_problem

GOOD_CANARIES = 15
BAD_CANARIES = {"another section's answer": 4, "a wrong number": 4, "another answer of the section": 4, "a hedge": 3}
"""How many bad canaries of each kind; where the corpus has too few of one, the others make up for it."""
MOST_CANDIDATES = 3000
"""Facts of which canaries are made, where the documents hold more."""
MIN_CANARIES = 5
"""Of either verdict; below that a trial says nothing."""
MIN_HITS, MAX_FALSE_ALARMS = 0.9, 0.1
"""The bar: share of the bad canaries that are found, and of the good ones that are called bad."""
HEDGES = (
    "That depends on the set-up and on several other factors; please look it up in the documentation.",
    "There are various options for this, and each has its advantages and drawbacks.",
    "It is generally recommended to follow best practices and to choose what suits the case.",
)


@dataclass(frozen=True, slots=True)
class Canary:
    """A pair of known verdict."""

    question: str
    answer: str
    chunk: Chunk
    good: bool
    how: str
    """What was done to it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How a judge did on the canaries."""

    found: int
    bad: int
    false_alarms: int
    good: int
    unusable: int = 0
    """Replies that were no verdict; they count against the judge on both sides."""

    @property
    def enough(self) -> bool:
        return min(self.bad, self.good) >= MIN_CANARIES

    @property
    def passed(self) -> bool:
        few_alarms = self.false_alarms <= MAX_FALSE_ALARMS * self.good
        return self.enough and self.found >= MIN_HITS * self.bad and few_alarms

    def sentence(self, model: str) -> str:
        """For the card."""
        if not self.enough:
            return (f"Judge `{model}`: not used; the documents give too few canaries to try it on "
                    f"({self.bad} bad, {self.good} good, {MIN_CANARIES} of each are wanted).")  # fmt: skip
        figures = (
            f"of {self.bad + self.good} canaries it found {self.found} of {self.bad} bad ones and called "
            f"{self.false_alarms} of {self.good} good ones bad"
        )
        figures += f" ({self.unusable} replies were no verdict)" if self.unusable else ""
        if self.passed:
            return f"Judge `{model}`: used; {figures}."
        return (f"Judge `{model}`: not used, it failed its trial: {figures}; at least {MIN_HITS:.0%} and at most "
                f"{MAX_FALSE_ALARMS:.0%} are wanted.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge said of some pairs."""

    kept: tuple[Grounded, ...]
    dropped: tuple[Dropped, ...]
    verdicts: Mapping[str, str] = field(default_factory=dict)
    """Pair id -> `good`, `bad: why` or `none`: no reply was a verdict, so the code's checks stand alone."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A judge after its trial."""

    engine: Engine
    trial: Trial

    def judge(self, pairs: Sequence[Grounded]) -> Judged:
        """The pairs without those it calls bad; all of them where it failed its trial."""
        if not self.trial.passed:
            return Judged(tuple(pairs), ())
        return judged(self.engine, pairs)

    @property
    def note(self) -> str:
        return self.trial.sentence(self.engine.generator.model)


def canaries(facts: Iterable[tuple[Fact, Chunk]], seed: int) -> list[Canary]:
    """Up to 30 pairs of known verdict. Good ones are a template's question and the document's own sentence."""
    usable = heapq.nsmallest(
        MOST_CANDIDATES, filter(_plain, facts), key=lambda one: digest(str(seed), one[0].question, one[0].answer)
    )
    good = [Canary(fact.question, fact.answer, chunk, True, "as it is") for fact, chunk in usable[:GOOD_CANARIES]]
    spoilt = usable[GOOD_CANARIES:] + usable[:GOOD_CANARIES]
    bad: list[Canary] = []
    makers = {how: list(_spoil(how, spoilt)) for how in BAD_CANARIES}
    for how, count in BAD_CANARIES.items():
        bad += makers[how][:count]
    rest = [one for how in ("another section's answer", "a wrong number") for one in makers[how][BAD_CANARIES[how] :]]
    return good + bad + rest[: sum(BAD_CANARIES.values()) - len(bad)]


def _plain(one: tuple[Fact, Chunk]) -> bool:
    fact, chunk = one
    return bool(fact.question) and "\n" not in fact.answer and template_problem(fact, chunk) is None


def _spoil(how: str, usable: Sequence[tuple[Fact, Chunk]]) -> Iterator[Canary]:
    """Bad canaries of one kind, at most one per fact."""
    for place, (fact, chunk) in enumerate(usable):
        if how == "a wrong number":
            answer = _other_number(fact.answer, grounds(chunk))
        elif how == "a hedge":
            answer = HEDGES[place % len(HEDGES)]
        else:
            near = how == "another answer of the section"
            others = (*usable[place + 1 :], *usable[:place])
            answers = (other.answer for other, home in others
                       if (home.id == chunk.id) == near and _unrelated(fact, other, chunk, near))  # fmt: skip
            answer = next(answers, None)
        if answer is not None:
            yield Canary(fact.question, answer, chunk, False, how)


def _unrelated(fact: Fact, other: Fact, chunk: Chunk, near: bool) -> bool:
    """Whether the other fact's answer cannot pass for an answer to this one's question."""
    if fact.subject.casefold() in other.answer.casefold() or fact.answer == other.answer:
        return False
    if not near and other.answer.rstrip(".") in chunk.text:
        return False
    shared = content_stems(fact.question) & content_stems(other.answer)
    named = exact_words(fact.question) & exact_words(other.answer)
    return not named and len(shared) <= (1 if near else 0)


def _other_number(answer: str, source: str) -> str | None:
    """The answer with its only number exchanged for one that the source does not hold."""
    numbers = re.findall(r"(?<![\w.,/-])\d+(?![\w/-]|[.,]\d)", answer)
    if len(numbers) != 1:
        return None
    wrong = str(int(numbers[0]) * 2 + 7)
    if wrong in exact_words(source):
        return None
    return re.sub(r"(?<![\w.,/-])\d+(?![\w/-]|[.,]\d)", wrong, answer)


def trial(engine: Engine, birds: Sequence[Canary]) -> Trial:
    """Asks the judge about canaries. With too few of them it is not asked at all."""
    good = sum(bird.good for bird in birds)
    blank = Trial(0, len(birds) - good, 0, good)
    if not blank.enough:
        return blank
    found = alarms = unusable = 0
    requests = [request(bird.question, bird.answer, bird.chunk, engine.generator, bird) for bird in birds]
    for outcome in engine.run(requests, verdict, total=len(requests)):
        bird: Canary = outcome.request.about
        unusable += outcome.problem is not None
        said_good = outcome.value is not None and outcome.value[0]
        found += not bird.good and outcome.value is not None and not said_good
        alarms += bird.good and not said_good
    return Trial(found, len(birds) - good, alarms, good, unusable)


def judged(engine: Engine, pairs: Sequence[Grounded]) -> Judged:
    """What the judge says of pairs, in the order given. A pair without a verdict is kept and counted."""
    reasons: dict[str, str] = {}
    verdicts: dict[str, str] = {}
    requests = (request(one.pair.question, one.pair.answer, one.chunk, engine.generator, one) for one in pairs)
    for outcome in engine.run(requests, verdict, total=len(pairs)):
        name = outcome.request.about.pair.id
        good, why = outcome.value or (True, "")
        verdicts[name] = "none" if outcome.value is None else "good" if good else f"bad: {why}"
        if not good:
            reasons[name] = why
    dropped = [_dropped(one, reasons[one.pair.id]) for one in pairs if one.pair.id in reasons]
    return Judged(tuple(one for one in pairs if one.pair.id not in reasons), tuple(dropped), verdicts)


def foresee(engine: Engine, pairs: Sequence[Grounded]) -> None:
    """Pairs whose verdicts will be wanted."""
    engine.foresee([request(one.pair.question, one.pair.answer, one.chunk, engine.generator, one) for one in pairs])


def _dropped(one: Grounded, reason: str) -> Dropped:
    item = {"question": one.pair.question, "answer": one.pair.answer, "quote": one.pair.quote,
            "source": one.chunk.origin, "section": one.chunk.section}  # fmt: skip
    return Dropped("judge", "the judge calls it bad" + (f": {reason}" if reason else ""), item)


def request(question: str, answer: str, chunk: Chunk, generator: Generator, about: object) -> Request:
    """One pair with its text, for a verdict."""
    messages = prompting.messages(
        "judge", document=prompting.as_data(chunk.text), section=chunk.section, question=question, answer=answer
    )
    return Request(generator.model, messages, None, generator.max_tokens, 0.0, generator.seed, "judge", about)


def verdict(reply: Reply) -> tuple[bool, str]:
    """(good, reason) out of a reply. Raises BadReply where its first line is not one of the two words."""
    lines = [line.strip("*#` ") for line in without_thoughts(reply.text).splitlines() if line.strip("*#` ")]
    words = re.findall(r"\b(good|bad)\b", lines[0].casefold()) if lines else []
    if len(set(words)) != 1 or not re.match(r"(?:verdict\W+)?(?:good|bad)\b", lines[0].casefold()):
        raise BadReply("neither GOOD nor BAD")
    rest = re.sub(r"(?i)^(?:verdict\W+)?(?:good|bad)\b\W*", "", lines[0])
    return words[0] == "good", " ".join((rest or " ".join(lines[1:2])).split())[:200]
