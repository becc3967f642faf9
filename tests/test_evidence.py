"""Evidence checked by code: quotes with their place, answers that invent nothing, questions that stand alone."""

import pytest

from dataset_builder.evidence import (
    answer_problem,
    code_problem,
    locate,
    parse_problem,
    project,
    question_problem,
)
from dataset_builder.identifiers import exact_words, missing_words

TEXT = """> **Note:** [ollama](https://example.org/a_b) is a *popular*
> framework. It keeps a model for `5` minutes.

| Option | Default |
|---|---|
| `--retries` | 3 |

```bash
export OLLAMA_NUM_GPU=999
```
"""


def quoted(quote: str) -> str | None:
    place = locate(quote, TEXT)
    return None if place is None else TEXT[slice(*place)]


def test_a_quote_is_found_across_marks_and_line_ends():
    assert quoted("ollama is a popular framework.") == "ollama](https://example.org/a_b) is a *popular*\n> framework."
    assert quoted("export OLLAMA_NUM_GPU=999") == "export OLLAMA_NUM_GPU=999"


def test_a_table_row_is_found_as_read():
    assert "--retries" in quoted("| `--retries` | 3 |")


@pytest.mark.parametrize("quote", ["", "2", "ollama", "a popular car", "It keeps a model for 6 minutes."])
def test_too_short_or_foreign_quotes_are_refused(quote):
    assert quoted(quote) is None


def test_a_near_quote_may_miss_a_mark_but_no_figure():
    assert locate("the server keeps, every model in memory", "In short the server keeps every model in memory.") == (
        9,
        47,
    )
    assert locate("set lora_r to 16 before the run starts", "set lora_r to 32 before the run starts") is None


def test_offsets_of_the_projection_point_at_the_same_characters():
    plain, offsets = project(TEXT)
    assert len(plain) == len(offsets)
    assert all(TEXT[place] == char for char, place in zip(plain, offsets, strict=True) if char.isalnum())


@pytest.mark.parametrize(
    "question",
    [
        "What does the text say about retries?",
        "What is this used for?",
        "What is the default value in the table above?",
        "Which option is described in this section?",
        "What is it?",
        "Name the default.",
        "What is A? And what is B?",
    ],
)
def test_questions_that_cannot_stand_alone(question):
    assert question_problem(question)


@pytest.mark.parametrize("question", ["What does `--retries` do?", "How do I keep a model loaded in Ollama?"])
def test_questions_that_can(question):
    assert question_problem(question) is None


def test_an_answer_may_not_name_what_its_source_does_not():
    question = "What does `--retries` set?"
    assert answer_problem(question, "`--retries` sets 3 tries by default.", TEXT) is None
    assert "4" in answer_problem(question, "`--retries` sets 4 tries by default.", TEXT)
    assert "--retry-max" in answer_problem(question, "`--retry-max` sets 3 tries by default.", TEXT)
    assert "bare" in answer_problem(question, "3", TEXT)


def test_a_question_may_not_bring_a_name_of_its_own():
    assert "foreign_option" in answer_problem("What does `foreign_option` set?", "It sets a default of 3 tries.", TEXT)


@pytest.mark.parametrize(
    ("language", "good", "bad"),
    [
        ("python", "x = 1", "x = = 1"),
        ("json", '{"a": 1}', "{a: 1}"),
        ("yaml", "a: 1", "a: [1"),
        ("toml", "a = 1", "a = "),
        ("bash", "echo 'a'", "echo 'a"),
    ],
)
def test_code_of_an_answer_parses(language, good, bad):
    assert parse_problem(language, good) is None
    assert parse_problem(language, bad)
    assert code_problem(f"Run:\n\n```{language}\n{bad}\n```", "") is not None
    assert code_problem(f"Run:\n\n```{language}\n{bad}\n```", f"as in\n{bad}") is None, "the document's own code stands"


def test_exact_words_are_the_ones_that_mean_what_they_say():
    text = "1. Set `lora_r` to 16 with --bf16 on a B580 (v2.1.0+cpu), see docs/gpu.md, e.g. "
    text += "training/inference and/or PyTorch."
    assert exact_words(text) == {"lora_r", "16", "--bf16", "b580", "2.1.0+cpu", "docs/gpu.md", "pytorch"}


def test_a_number_inside_another_number_does_not_count():
    assert missing_words("It takes 2 GiB.", "Since 2025.2 it takes 20 GiB.") == ["2"]
