"""What people decided about pairs: `generated/<recipe>/dataset/review.jsonl`, committed beside the card.

One JSON line a decision, sorted by document and key, so that a pull request shows what was decided and two branches
merge. A decision carries the pair as its reader saw it: it needs neither the ledger nor the tables to be read, and a
builder finds the pair again when the page around its quote, the model or the prompts have changed.

Only the review writes this file, a builder only reads it. It is written whole or not at all, under a lock, starting
from what is on disk, so neither a second review nor a file that git exchanged meanwhile loses anything.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Grounded, address, digest

FILE = "review.jsonl"
VERDICTS = ("accept", "edit", "reject")


@dataclass(frozen=True, slots=True)
class Wording:
    """What a person made of a pair."""

    question: str
    answer: str
    quote: str


@dataclass(frozen=True)
class Decision:
    """One verdict on one pair, with the pair as its reader saw it."""

    verdict: str
    """One of VERDICTS."""
    id: str
    """Of the pair, as in the tables of the build that was read."""
    document: str
    """Where the document lies, without its commit (`rows.address`)."""
    section: str
    question: str
    answer: str
    quote: str
    kind: str = "direct"
    worded_by: str = "model"
    wordings: tuple[str, ...] = ()
    subject: str = ""
    proof: str = ""
    """As in `Grounded`, as are the three before it."""
    edited: Wording | None = None
    """What the pair is to say, for the verdict `edit`."""
    note: str = ""
    """Why, in the reader's words."""

    @cached_property
    def key(self) -> str:
        """What the decision is about, whatever else of the page changes."""
        return key_of(self.question, self.answer, self.document)

    @cached_property
    def line(self) -> str:
        """Of the file, without what is empty anyway. Kept, for each decision writes those of all."""
        value = {name: getattr(self, name) for name in _FIELDS}
        value["edited"] = asdict(self.edited) if self.edited else None
        return json.dumps({name: part for name, part in value.items() if part}, ensure_ascii=False) + "\n"


_FIELDS = tuple(field.name for field in fields(Decision))
Decisions = Mapping[str, Decision]
"""By key."""


def key_of(question: str, answer: str, document: str) -> str:
    """A pair's content: its words and where its document lies. Spaces do not count."""
    return digest(" ".join(question.split()), " ".join(answer.split()), address(document))


def key(grounded: Grounded) -> str:
    """The key of a pair that a build has found."""
    return key_of(grounded.pair.question, grounded.pair.answer, grounded.chunk.origin)


def load(path: Path) -> dict[str, Decision]:
    """The decisions in a file, by key; none where there is no file. Raises BuildProblem with the line that is no
    decision (the marks of a merge that git left, say): what people decided is never skipped."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BuildProblem(f"{path}: cannot be read: {error}\n  fix: restore it from git, or move it away") from None
    found: dict[str, Decision] = {}
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at U+2028, which a page may hold
        if not line.strip():
            continue
        try:
            one = _decision(json.loads(line))
        except (ValueError, TypeError, AttributeError) as error:
            raise BuildProblem(
                f"{path}:{number}: no decision: {error}\n"
                "  fix: mend the line (marks of a merge?), or take the file from git"
            ) from None
        found[one.key] = one
    return found


def _decision(value: dict) -> Decision:
    if unknown := sorted(set(value) - set(_FIELDS)):
        raise ValueError(f"unknown field {unknown[0]!r}")
    edited = value.get("edited")
    made = Decision(**{**value, "wordings": tuple(value.get("wordings", ())),
                       "edited": Wording(**edited) if edited else None})  # fmt: skip
    texts = [getattr(made, name) for name in _FIELDS if name not in ("wordings", "edited")]
    texts += [*made.wordings, *((made.edited.question, made.edited.answer, made.edited.quote) if made.edited else ())]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a field is no text")
    if made.verdict not in VERDICTS:
        raise ValueError(f"verdict {made.verdict!r} is none of {', '.join(VERDICTS)}")
    if (made.verdict == "edit") != (made.edited is not None):
        raise ValueError("the verdict `edit` goes with `edited`, and no other does")
    return made


def text_of(decisions: Decisions) -> str:
    """The file's text; equal decisions give equal bytes."""
    ordered = sorted(decisions.items(), key=lambda item: (item[1].document, item[0]))
    return "".join(one.line for _, one in ordered)


def digest_of(decisions: Decisions) -> str:
    """For the lock: "" where nothing was decided. A note changes no row, but it stands in dropped.jsonl."""
    return digest(text_of(decisions)) if decisions else ""


class Store:
    """The file of one recipe, to be changed one decision at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._known: dict[str, Decision] = {}

    def read(self) -> dict[str, Decision]:
        """What is on disk now; parsed again only where the file changed. Not to be altered by the caller."""
        seen = self._state()
        if seen is None or seen != self._seen:
            self._known, self._seen = load(self.path), seen
        return self._known

    def change(self, about: str, decision: Decision | None) -> dict[str, Decision]:
        """Sets (or with None takes back) the decision with the key `about`; returns all, which are then on disk."""
        from dataset_builder.materials import write_whole

        with _locked(self.path.with_name(f".{self.path.name}.lock")):
            now = dict(self.read())
            now.pop(about, None)
            if decision is not None:
                now[about] = decision
            text = text_of(now)
            write_whole(self.path, text)
            state = self._state()
            if self.path.read_bytes() == text.encode():  # else git was faster: it is read again
                self._known, self._seen = now, state
            return self.read()

    def _state(self) -> tuple[int, int, int] | None:
        try:
            state = self.path.stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_size, state.st_ino


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an advisory lock, so that two reviews of one recipe change one file in turns. The kernel lets go of it
    when a process dies; where there is none (Windows), the single server's own lock has to do."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
