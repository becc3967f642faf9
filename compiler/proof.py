"""The train-ready proof: the tables of a recipe read by Axolotl itself, and what training will learn of them.

Nothing here knows how Axolotl tokenises. The generated config's own keys about tokens and data are handed to `axolotl
preprocess`, the rows that it made are read back, and each is held against the row of the CSV that it should be. Where
some are missing it reads the tables once more without a limit, to learn whether they are those that are too long, and
whether they are no more than the plan announced.
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import yaml

from compiler.problems import WorldProblem
from compiler.rules.text import truncated_share
from compiler.values import DatasetFacts

DATA_KEYS = (
    "base_model", "tokenizer_config", "tokenizer_type", "trust_remote_code", "chat_template", "chat_template_jinja",
    "eot_tokens", "special_tokens", "tokens", "sequence_len", "excess_length_strategy", "train_on_inputs", "seed",
)  # fmt: skip
"""Keys of axolotl.yaml that decide what becomes of a row, beside the tables themselves."""
MINIMUM = {
    "micro_batch_size": 1, "gradient_accumulation_steps": 1, "num_epochs": 1, "learning_rate": 1e-4,
    "optimizer": "adamw_torch", "val_set_size": 0, "sample_packing": False, "bf16": False, "fp16": False, "tf32": False,
    "lora_mlp_kernel": False, "lora_qkv_kernel": False, "lora_o_kernel": False, "shuffle_merged_datasets": False,
}  # fmt: skip
"""What Axolotl wants of any config; none of it touches a row."""
IGNORED = -100
"""Label of a token that is not learnt (torch's cross-entropy)."""
NEXT_TURN = "\x1e"
"""Between the answers of a conversation of several turns."""
TIMEOUT_S = 1800
NO_LIMIT = 1 << 20
"""Tokens: no row is longer."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """One row as Axolotl prepared it."""

    tokens: int
    learnt_tokens: int
    answer: str
    """The learnt tokens as text, without the end of turn; several answers with `NEXT_TURN` between them."""
    ended: bool
    """Every answer ends with an end of turn, and no other is learnt."""
    whole: bool
    """The learnt tokens of each answer are one run and equal the input there."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What Axolotl made of the tables. Lengths are tokens."""

    files: tuple[str, ...]
    rows: int
    """In the CSV files."""
    prepared: int
    lengths: tuple[int, ...]
    """Ascending."""
    learnt_share: float
    """Learnt tokens of all tokens."""
    sequence_len: int
    ended: int
    whole: int
    changed: tuple[str, ...]
    """Answers of the CSV that no prepared row has to the letter, those of dropped rows among them."""
    foreign: tuple[str, ...]
    """Learnt texts that are no answer of the CSV."""
    long: tuple[int, ...] = ()
    """Tokens of the training rows that are dropped because they are longer than `sequence_len`, ascending."""
    long_held_out: int = 0
    """Held-out rows that are dropped so."""
    announced: int = 0
    """Training rows that the plan said would be."""

    @property
    def dropped(self) -> int:
        return self.rows - self.prepared

    @property
    def holds(self) -> bool:
        """Every row is there but those that the plan announced as too long, learns its whole answer and its end of
        turn, and nothing else."""
        told = self.dropped == len(self.long) + self.long_held_out and len(self.long) <= self.announced
        return told and not self.changed and not self.foreign and self.prepared == self.ended == self.whole


def prove(config: Path, dataset: DatasetFacts | None = None) -> Proof:
    """Read the tables that `config` (a generated axolotl.yaml) names through Axolotl. `dataset`: what the plan knew of
    them; None: it announced no row as too long.

    Paths in it are relative to the current directory. Raises WorldProblem where the config, a table, Axolotl or the
    tokenizer is missing, or Axolotl refuses the data.
    """
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorldProblem(f"{config} does not exist", fix="run `recipe build` first") from error
    tables = [*settings["datasets"], *(settings.get("test_datasets") or [])]
    trained = [answer for table in settings["datasets"] for answer in _answers(Path(table["path"]))]
    held_out = [answer for table in tables[len(settings["datasets"]) :] for answer in _answers(Path(table["path"]))]
    rows, long, length = _through_axolotl(settings, tables), [], settings["sequence_len"]
    if len(rows) < len(trained) + len(held_out):
        every = _through_axolotl({**settings, "sequence_len": NO_LIMIT}, tables)
        long = [(place < len(trained), row) for place, row in enumerate(every) if row.tokens > length]
    announced = math.ceil(truncated_share(dataset, length) * dataset.rows - 1e-6) if dataset else 0
    files = [table["path"] for table in tables]
    return _proof(files, Counter([*trained, *held_out]), rows, length, long, announced)


def _through_axolotl(settings: Mapping, tables: list[dict]) -> list[Learnt]:
    """The tables' rows in their order, without those that Axolotl drops."""
    with tempfile.TemporaryDirectory(prefix="recipe-proof-") as folder:
        _preprocess(settings, tables, Path(folder))
        return list(_prepared(Path(folder, "prepared"), settings))


def _proof(files: Iterable[str], answers: Counter[str], rows: list[Learnt], sequence_len: int,
           long: Sequence[tuple[bool, Learnt]] = (), announced: int = 0) -> Proof:  # fmt: skip
    """`long`: the rows that are dropped for their length, each with whether it is a training row."""
    said = Counter(row.answer for row in rows)
    tokens, every = sum(row.tokens for row in rows), answers.total()
    answers = answers - Counter(row.answer for _, row in long)
    return Proof(
        files=tuple(files),
        rows=every,
        prepared=len(rows),
        lengths=tuple(sorted(row.tokens for row in rows)),
        learnt_share=sum(row.learnt_tokens for row in rows) / tokens if tokens else 0.0,
        sequence_len=sequence_len,
        ended=sum(row.ended for row in rows),
        whole=sum(row.whole for row in rows),
        changed=tuple((answers - said).elements()),
        foreign=tuple((said - answers).elements()),
        long=tuple(sorted(row.tokens for trained, row in long if trained)),
        long_held_out=sum(not trained for trained, _ in long),
        announced=announced,
    )


def _answers(path: Path) -> Iterator[str]:
    """What every row says as the assistant. Raises WorldProblem where the table cannot be read."""
    from dataset_builder.table import whole_cells

    whole_cells()
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                messages = json.loads(row["messages"])
                if messages[-1]["role"] != "assistant":
                    raise ValueError("a row does not end with an answer")
                yield NEXT_TURN.join(turn["content"] for turn in messages if turn["role"] == "assistant")
    except FileNotFoundError as error:
        raise WorldProblem(f"{path} does not exist", fix="run `recipe data`, then `recipe build`") from error
    except (KeyError, ValueError, TypeError, IndexError, csv.Error) as error:
        raise WorldProblem(f"{path} is no table of ours: {error}", fix="run `recipe data` again") from error


def _preprocess(settings: Mapping, tables: list[dict], folder: Path) -> None:
    """`axolotl preprocess` over all tables as one. Raises WorldProblem with the end of its output."""
    kept = {key: settings[key] for key in DATA_KEYS if key in settings}
    asked = MINIMUM | kept | {"datasets": tables, "dataset_prepared_path": str(folder / "prepared"),
                              "output_dir": str(folder / "output")}  # fmt: skip
    path = folder / "proof.yaml"
    path.write_text(yaml.safe_dump(asked, sort_keys=False, allow_unicode=True), encoding="utf-8")
    program = Path(sys.executable).parent / "axolotl"
    if not program.is_file():
        raise WorldProblem("axolotl is not installed here", fix="run `make setup`, or install the extra `train`")
    done = subprocess.run(
        [str(program), "preprocess", str(path)], text=True, errors="replace", timeout=TIMEOUT_S,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "AXOLOTL_DO_NOT_TRACK": "1"},
    )  # fmt: skip
    if done.returncode:
        end = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise WorldProblem(
            f"axolotl preprocess ended with status {done.returncode}; its last lines:\n{end}",
            fix="mend what they name; the tokenizer has to be on this machine, or a network to fetch it",
        )


def _prepared(folder: Path, settings: Mapping) -> Iterator[Learnt]:
    """The rows that Axolotl wrote, read with the tokenizer of the base model."""
    from datasets import load_from_disk
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["base_model"])
    ends = set(tokenizer.convert_tokens_to_ids(list(settings.get("eot_tokens") or [tokenizer.eos_token])))
    for state in sorted(folder.rglob("state.json")):
        for row in load_from_disk(str(state.parent)):
            yield learnt(row["input_ids"], row["labels"], ends, tokenizer.decode)


def learnt(input_ids: list[int], labels: list[int], ends: set[int], decode) -> Learnt:
    """One prepared row. `ends`: ids of end-of-turn tokens; `decode`: ids -> text. A conversation of several turns
    learns each answer."""
    places = [place for place, label in enumerate(labels) if label != IGNORED]
    turns: list[list[int]] = [[]]
    for place in places:
        turns[-1].append(place)
        if labels[place] in ends:
            turns.append([])
    rest = turns.pop()
    if not turns or decode([labels[place] for place in rest]).strip():
        turns, ended = [*turns, rest], False
    else:  # templates put a line end behind the end of turn, which is learnt with it
        turns = [_without_line_end(turn, labels, decode) for turn in turns]
        ended = all(len(turn) > 1 for turn in turns)
    said = [decode([labels[place] for place in turn if labels[place] not in ends]) for turn in turns]
    one_run = bool(places) and all(turn[-1] - turn[0] == len(turn) - 1 for turn in turns)
    same = all(input_ids[place] == labels[place] for place in places)
    return Learnt(len(input_ids), len(places), NEXT_TURN.join(said), ended, one_run and same)


def _without_line_end(turn: list[int], labels: list[int], decode) -> list[int]:
    """The places of a turn without the line end of the turn before."""
    while len(turn) > 1 and turn[1] != turn[0] + 1 and not decode([labels[turn[0]]]).strip():
        turn = turn[1:]
    return turn


def report(proof: Proof) -> list[str]:
    """The proof in lines."""
    lines = [
        f"tables       {', '.join(proof.files)}",
        f"rows         {proof.rows:,} in the tables, {proof.prepared:,} after Axolotl, {proof.dropped:,} dropped "
        f"(sequence_len {proof.sequence_len:,})",
    ]
    lines += _too_long(proof)
    if proof.lengths:
        high = proof.lengths[min(len(proof.lengths) - 1, len(proof.lengths) * 99 // 100)]
        lines.append(
            f"tokens       {proof.lengths[0]:,} to {proof.lengths[-1]:,} a row, mean {mean(proof.lengths):.1f}, "
            f"99 % at most {high:,}"
        )
    lines += [
        f"learnt       {proof.learnt_share:.1%} of the tokens; one run that equals the input in {proof.whole:,} of "
        f"{proof.prepared:,} rows",
        f"end of turn  learnt, once and last, in {proof.ended:,} of {proof.prepared:,} rows",
        f"round trip   {_kept(proof) - len(proof.changed):,} of {_kept(proof):,} answers are learnt as the table has "
        "them, character by character",
    ]
    lines += [f"  not so: {_short(text)}" for text in proof.changed[:5]]
    lines += [f"  learnt, and in no table: {_short(text)}" for text in proof.foreign[:5]]
    lines.append("train-ready" if proof.holds else "NOT train-ready")
    return lines


def _kept(proof: Proof) -> int:
    """Rows that are short enough."""
    return proof.rows - len(proof.long) - proof.long_held_out


def _too_long(proof: Proof) -> list[str]:
    """What becomes of rows that are too long, and whether the plan said so; nothing where there are none."""
    lines, most = [], f"the plan announced {proof.announced:,} at the most"
    if proof.long:
        verdict = most if len(proof.long) <= proof.announced else f"MORE than announced: {most}"
        lengths = f"{proof.long[0]:,} to {proof.long[-1]:,} tokens"
        lines.append(f"too long     {len(proof.long):,} training rows of {lengths}; {verdict}")
    if proof.long_held_out:
        lines.append(f"too long     {proof.long_held_out:,} held-out rows: only `recipe eval` asks them")
    other = proof.dropped - len(proof.long) - proof.long_held_out
    if other:
        lines.append(f"dropped      {other:,} rows for another reason than their length")
    return lines


def _short(text: str) -> str:
    return json.dumps(text if len(text) <= 160 else text[:157] + "...", ensure_ascii=False)
