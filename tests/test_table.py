"""The CSV: written, read back, and proven fit to train on."""

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builder.lengths import estimate_count, lengths
from dataset_builder.problems import BuildProblem
from dataset_builder.rows import Row
from dataset_builder.table import HEADER, check_table, csv_text, read_rows
from dataset_builder.variants import chat


def row(question: str = "What is A?", answer: str = "A is a thing.", name: str = "1") -> Row:
    told = chat(question, answer, None)
    return Row(question, "", answer, told, name, name, "direct", "A is", "a.md#a", "A", "MIT", "0")


def test_the_header_is_the_fixed_one():
    assert ",".join(HEADER) == "instruction,input,output,messages,id,parent,view,quote,source,section,licence,sha256"
    assert csv_text([]).encode() == (",".join(HEADER) + "\r\n").encode()


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_characters="\r\x00", exclude_categories=["Cs"]), min_size=1))
def test_any_text_comes_back_as_it_was(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_bytes(csv_text([row(text, text)]).encode())
    assert read_rows(path) == [row(text, text)]


def test_python_and_pandas_style_readers_agree(tmp_path):
    path = tmp_path / "t.csv"
    tricky = 'He said "no",\nthen:\n\n```bash\necho "a, b"\n```'
    path.write_bytes(csv_text([row(answer=tricky)]).encode())
    with path.open(newline="", encoding="utf-8") as stream:
        (read,) = csv.DictReader(stream)
    assert read["output"] == tricky and json.loads(read["messages"])[-1]["content"] == tricky


def test_a_carriage_return_is_refused():
    with pytest.raises(BuildProblem, match="carriage return"):
        csv_text([row(answer="a\r\nb")])


def test_a_broken_file_is_named_by_its_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(csv_text([row("a\nb")]).encode() + b"only,three,cells\r\n")
    with pytest.raises(BuildProblem, match=r"line 4: 3 cells, the header has 12"):
        read_rows(path)
    path.write_bytes(b"question,answer\r\n")
    with pytest.raises(BuildProblem, match="line 1: the header"):
        read_rows(path)


def test_a_good_table_has_no_problems(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(csv_text([row(), row("What is B?", name="2")]).encode())
    proof = check_table(path)
    assert (proof.rows, proof.problems) == (2, ())


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (replace(row(), output="Another."), "differ"),
        (replace(row(), messages="[1"), "no JSON list"),
        (replace(row(), instruction=" ", messages=chat(" ", "A is a thing.", None)), "empty"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_found(tmp_path, bad, said):
    path = tmp_path / "t.csv"
    path.write_bytes(csv_text([bad]).encode())
    assert said in check_table(path).problems[0]


def test_ids_and_lengths_are_checked(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(csv_text([row(), row("What is B?", "B " * 400)]).encode())
    problems = check_table(path, max_tokens=100).problems
    assert any("stands twice" in text for text in problems) and any("more than 100" in text for text in problems)


def test_the_histogram_holds_every_row_once():
    rows = [row("Why?" * number, "Because." * number) for number in range(1, 200)]
    found = lengths(rows, None)
    sizes = sorted(estimate_count(one.messages) for one in rows)
    assert sum(count for _, count in found.histogram) == len(rows)
    assert (found.longest, found.p99) == (sizes[-1], sizes[197])
    for bound, _ in found.histogram:
        upto = sum(count for other, count in found.histogram if other <= bound)
        assert upto == sum(size <= bound for size in sizes)


def test_the_models_own_tokenizer_and_template_count(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end> {% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "</s>"}))
    found = lengths([row("What is A ?", "It is B .")], tmp_path)
    assert found.longest == 2 * (4 + 2) and "own tokenizer" in found.how
