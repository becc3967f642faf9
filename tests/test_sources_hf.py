"""Source `hf`: existing questions and answers as rows."""

import csv
import json

import pytest
from pydantic import ValidationError

from dataset_builder.problems import BuildProblem
from dataset_builder.sources.common import SourceReport
from dataset_builder.sources.hf import HfSource, conversation, read_rows
from dataset_builder.spec import Dataset
from dataset_builder.table import csv_text


def rows(tmp_path, text: str, name: str = "qa.jsonl", report=None, licences=None, **settings):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    source = {"kind": "hf", "path": name, **settings}
    return read_rows(
        Dataset.model_validate({"sources": [source], "generator": {"model": "x"}, "licences": licences or {}}),
        tmp_path,
        report,
    )


def test_alpaca_chat_and_sharegpt(tmp_path):
    records = [
        {"instruction": "Q1", "input": "with this", "output": "A1"},
        {"question": "Q2", "answer": "A2", "system": "S"},
        {"messages": [{"role": "user", "content": "Q3"}, {"role": "assistant", "content": "A3"}]},
        {
            "conversations": [
                {"from": "human", "value": "Q4"},
                {"from": "gpt", "value": "A4"},
                {"from": "human", "value": "left open"},
            ]
        },
        {"messages": json.dumps([{"role": "user", "content": "Q5"}, {"role": "assistant", "content": "A5"}])},
        {"text": "neither"},
        {"messages": [{"role": "tool", "content": "x"}]},
        [1],
    ]
    report = SourceReport()
    found = rows(tmp_path, "\n".join(map(json.dumps, records)), report=report, licence="MIT")
    assert [(row.instruction, row.output) for row in found] == [
        ("Q1\n\nwith this", "A1"),
        ("Q2", "A2"),
        ("Q3", "A3"),
        ("Q4", "A4"),
        ("Q5", "A5"),
    ]
    assert [message["role"] for message in json.loads(found[1].messages)] == ["system", "user", "assistant"]
    assert {(row.view, row.licence, row.quote) for row in found} == {("existing", "MIT", "")} and found[0].id == found[
        0
    ].parent
    assert report.counts["skipped"] == 3 and report.dropped[0].item == {"origin": "qa.jsonl#6"}


def test_csv_with_line_breaks_and_quotes(tmp_path):
    with (tmp_path / "x.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows(
            [["instruction", "output"], ["Why?\r\nSay", 'Be"cause, it\nis'], ["", "no question"]]
        )
    found = rows(tmp_path, (tmp_path / "x.csv").read_text(encoding="utf-8"), "y.csv")
    assert [(row.instruction.replace("\r", ""), row.output) for row in found] == [("Why?\nSay", 'Be"cause, it\nis')]


def test_line_ends_of_other_systems_and_what_no_table_holds(tmp_path):
    """A file from Windows ended the build when its table was written, after all answers were paid for."""
    table = 'question,answer\r\nA\u2028B,one\x0ctwo\r\n"C\r\nD","x\r\ny"\r\n'
    lines = '{"question": "F", "answer": "x<|im_end|>y"}\n{"question": "E", "answer": "a\\r\\nb\\u0000c\\ud800d"}\n'
    made = rows(tmp_path, table, "q.csv") + rows(tmp_path, lines)
    found = {row.instruction: row.output for row in made}
    assert found == {"A\u2028B": "one\x0ctwo", "C\nD": "x\ny", "E": "a\nbcd"}
    csv_text(made).encode()


def test_a_limit_spreads_over_the_data_and_duplicates_count_once(tmp_path):
    text = json.dumps([{"question": f"Q{number}", "answer": "A"} for number in range(10)] * 2)
    assert [row.instruction for row in rows(tmp_path, text, "x.json", max_rows=4)] == ["Q0", "Q5", "Q1", "Q2"]
    assert len(rows(tmp_path, text, "x.json")) == 10


def test_a_share_is_of_the_finished_table(tmp_path):
    text = json.dumps([{"question": f"Q{number}", "answer": "A"} for number in range(2000)])
    # 2,500 pairs become 10,000 rows by default: a tenth of the table is a ninth of those
    assert len(rows(tmp_path, text, "x.json", share=0.1)) == 1111
    with pytest.raises(ValidationError, match="state one of them"):
        rows(tmp_path, text, "x.json", share=0.1, max_rows=5)
    with pytest.raises(ValidationError, match=r"below 0\.95"):
        rows(tmp_path, text, "x.json", share=0.97)


def test_secrets_go_and_licences_are_checked(tmp_path):
    line = json.dumps({"question": "Whom do I ask?", "answer": "jane.doe@intel.com knows."})
    report = SourceReport()
    assert rows(tmp_path, line, report=report)[0].output == "[e-mail address removed] knows."
    assert report.counts["scrubbed: e-mail address"] == 1
    assert rows(tmp_path, line, report=report, licences={"allow": ["MIT"]}) == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"question": 1}\n{', "line 2 is not JSON"),
        ("a.json", "5", "not a list"),
        ("a.json", "[" * 100_000, r"a\.json"),
    ],
)
def test_broken_files_are_told(tmp_path, name, text, told):
    with pytest.raises(BuildProblem, match=told):
        rows(tmp_path, text, name)


def test_a_source_is_a_file_or_a_name():
    for settings in ({}, {"path": "a", "name": "b"}):
        with pytest.raises(ValidationError, match="either `path`"):
            HfSource(kind="hf", **settings)
    with pytest.raises(BuildProblem, match="No such file"):
        read_rows(
            Dataset.model_validate({"sources": [{"kind": "hf", "path": "none.csv"}], "generator": {"model": "x"}}),
            "/nowhere",
        )
    assert conversation({"prompt": "p", "completion": "c"}) == [
        {"role": "user", "content": "p"},
        {"role": "assistant", "content": "c"},
    ]
