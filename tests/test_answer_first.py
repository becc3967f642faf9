"""Answer first: facts found by code, questions worded by a weak model and checked by code."""

import pytest

from dataset_builder import sentences
from dataset_builder.answer_first import first_line
from dataset_builder.chunks import chunk
from dataset_builder.facts import Fact, facts
from dataset_builder.materials import document
from dataset_builder.wording import template_problem, wording_problem

PAGE = """# Quay server

A ledger is a table of paid answers. To resume a run, start the same command again.
If you have little memory, set `QUAY_SMALL=1` before the start. This is important. See the next section.

## Options

| Option | Description | Default |
|---|---|---|
| `--retries` | sets how often a failed upload is tried again | 3 |
| `--cold` | Start without a cache | [link](a.md) |

- `quay.toml`: the file that holds all settings of the server.
- **Note**: nothing.

## Install the server

To install the server, run:

```bash
pip install quay==2.1
```
"""


def chunks():
    return chunk(document("quay.md", "Quay server", PAGE), 400)


def found() -> dict[str, Fact]:
    return {fact.question: fact for one in chunks() for fact in facts(one)}


def test_each_shape_gives_its_question():
    assert set(found()) >= {
        "In Quay server, what is a ledger?",
        "In Quay server, how do I resume a run?",
        "In Quay server, what should I do if I have little memory?",
        "What does the option `--retries` do?",
        "What is the default of the option `--retries`?",
        "What does the option `--cold` do?",
        "What is `quay.toml`?",
    }


def test_answers_are_whole_sentences_or_blocks_of_the_document():
    by_question = found()
    option = by_question["What does the option `--retries` do?"]
    assert option.answer == "`--retries` sets how often a failed upload is tried again."
    command = next(fact for fact in by_question.values() if fact.kind == "command")
    assert "```bash\npip install quay==2.1\n```" in command.answer


def test_the_evidence_is_verbatim():
    for one in chunks():
        for fact in facts(one):
            assert 0 <= fact.start < fact.end <= len(one.text)
            assert fact.answer.split()[-1].strip(".`") in one.text[fact.start : fact.end]


def test_what_cannot_stand_alone_is_no_fact():
    answers = " ".join(fact.answer for fact in found().values())
    assert "This is important" not in answers and "See the next section" not in answers and "link" not in answers


@pytest.mark.parametrize(
    "text",
    [
        "It is a table of paid answers for everyone.",
        "See the guide for more details on the server.",
        "The option below sets the size of the cache.",
        "Click here to read more about all the options.",
        "Visit http://example.org/ for all of the settings.",
    ],
)
def test_sentences_that_need_their_neighbours(text):
    assert not sentences.stands_alone(text)


def test_sentences_end_where_they_end():
    text = "Use v2.1, e.g. for tests. Set `a. B` first. It ends."
    assert [text[a:b] for a, b in sentences.split(text, 0, len(text))] == [
        "Use v2.1, e.g. for tests.",
        "Set `a. B` first.",
        "It ends.",
    ]


def fact() -> tuple:
    found = ((each, one) for one in chunks() for each in facts(one))
    return next(item for item in found if item[0].question.startswith("What does the option `--r"))


@pytest.mark.parametrize("question", ["What is `--retries` used for with a failed upload?"])
def test_a_good_wording_passes(question):
    assert wording_problem(question, *fact()) is None


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("You must mention `--retries`.", "not one question"),
        ("What does `--retry-max` do?", "names what the source does not"),
        ("What is the purpose of `--retries` in Git?", "does not say"),
        ("Is `--retries` for a failed upload?", "yes/no"),
        ("How often is a failed upload tried again?", "name its subject"),
        ("Who tried the failed upload with `--retries`?", "a person"),
        ("Why is a failed upload tried with `--retries`?", "a reason"),
    ],
)
def test_a_wording_that_asks_for_something_else_is_refused(question, why):
    assert why in wording_problem(question, *fact())


def test_a_reply_is_cut_to_its_question():
    assert first_line("<think>hm</think>\n**Question:** What is A? It is B.") == "What is A?"
    assert first_line("") == ""


def test_templates_pass_their_own_checks():
    for one in chunks():
        for each in facts(one):
            assert not each.question or template_problem(each, one) is None, each.question


@pytest.mark.parametrize(
    "sentence",
    [
        "When import an external tensor in the usual format, a new tensor is created by the framework.",
        "Currently `quay` CLI supports the three families of models that are most often asked for.",
        "Two formats are used in training and inference, in order to meet the range of values.",
        "Log component is used to specify which part of the server does this log information belong to.",
    ],
)
def test_what_is_no_clause_or_no_name_gets_no_template(sentence):
    (one,) = chunk(document("a.md", "Quay server", f"# Quay server\n\n{sentence}"), 400)
    assert not any(fact.question for fact in facts(one))


@pytest.mark.parametrize(("title", "setting"), [("FAQ", "Quay logs"), ("Overview", "Quay logs"), ("Quay", "Quay")])
def test_a_page_that_any_product_has_is_no_setting(title, setting):
    (one,) = chunk(document("a.md", title, "# Quay logs\n\nA ledger is a table of paid answers."), 400)
    assert [fact.question for fact in facts(one)] == [f"In {setting}, what is a ledger?"]


def test_a_recommendation_is_asked_as_one_and_an_acronym_has_its_setting():
    page = (
        "# Quay logs\n\nWhen running the server on a small card, we recommend setting `small=True` at the start.\n\n"
        "| Level | Description |\n|---|---|\n| DEBUG | Gives the whole calling stack. |\n\n"
        "Set in the training:\n\n```python\nsampler.set_epoch(1)\n```"
    )
    (one,) = chunk(document("a.md", "Quay logs", page), 400)
    assert [fact.question for fact in facts(one)] == [
        "In Quay logs, what should I do when running the server on a small card?",
        "In Quay logs, what is DEBUG?",
    ]


def test_a_cell_that_is_no_value_follows_a_colon():
    page = "# Quay\n\n| Image | Use case | Port |\n|---|---|---|\n| quay-web | For browsers, etc. | eth port 1 |"
    (one,) = chunk(document("a.md", "Quay", page), 400)
    assert [fact.answer for fact in facts(one)] == [
        "The use case of quay-web: For browsers, etc.",
        "The port of quay-web is eth port 1.",
    ]
