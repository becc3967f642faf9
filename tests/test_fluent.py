"""Questions of a model that words well: freer with words than a very small model's, held to what the sentence gives."""

import pytest

from dataset_builder import sentences, views
from dataset_builder.chunks import chunk
from dataset_builder.facts import Fact, set_in
from dataset_builder.fluent import fluent_problem, placed
from dataset_builder.materials import document
from dataset_builder.rows import Grounded, Pair

TEXT = """# Run Dinghy on Quay server

Place models in `C:\\quay\\models` by copying them or by a download in the browser. The environment variable QUAY_LISTS
determines the usage of immediate lists for task submission to the card. `quay.float8` is the default low precision type
when casting is enabled. Before a benchmark, it is recommended to lock the frequencies of the card to ensure stable
data. During the use of Dinghy, the desktop needs to be kept open all the time. If the driver is too old, update it with
`quay driver --update`. Dinghy is an open platform for training and serving chatbots. Its server reads models.

Run the server in one shell:

```bash
quay serve --port 9
```
"""
PLACE = "Place models in `C:\\quay\\models` by copying them or by a download in the browser."
LISTS = "The environment variable QUAY_LISTS determines the usage of immediate lists for task submission to the card."
TYPE = "`quay.float8` is the default low precision type when casting is enabled."
LOCK = "Before a benchmark, it is recommended to lock the frequencies of the card to ensure stable data."
OPEN = "During the use of Dinghy, the desktop needs to be kept open all the time."
OLD = "If the driver is too old, update it with `quay driver --update`."
PLATFORM = "Dinghy is an open platform for training and serving chatbots."
SERVE = "Run the server in one shell:\n\n```bash\nquay serve --port 9\n```"


def page():
    (one,) = chunk(document("quay.md", "Run Dinghy on Quay server", TEXT), 600)
    return one


def fact(answer: str, kind: str = "statement", subject: str = "Dinghy") -> Fact:
    return Fact(kind, subject, answer, "", 0, 10)


@pytest.mark.parametrize(
    ("question", "answer", "kind", "subject"),
    [
        ("Where should models be placed in `C:\\quay\\models`?", PLACE, "statement", "`C:\\quay\\models`"),
        ("What determines the usage of immediate lists for task submission?", LISTS, "statement", "QUAY_LISTS"),
        ("What is the default low precision type when casting is enabled?", TYPE, "definition", "`quay.float8`"),
        ("Why is it recommended to lock the frequencies before a benchmark?", LOCK, "statement", "Dinghy"),
        ("What should you do if the driver is too old?", OLD, "condition", "the driver is too old"),
        ("What command should be used if the driver is too old?", OLD, "condition", "the driver is too old"),
        ("What is Dinghy?", PLATFORM, "definition", "Dinghy"),
        ("How can you run the server in one shell?", SERVE, "command", "run the server in one shell"),
    ],
)
def test_a_question_that_the_sentence_answers_passes(question, answer, kind, subject):
    assert fluent_problem(question, fact(answer, kind, subject), page()) is None


@pytest.mark.parametrize(
    ("question", "answer", "kind", "subject", "why"),
    [
        ("What is Dinghy and how are chatbots trained?", PLATFORM, "definition", "Dinghy", "two questions"),
        ("Why does the desktop need to be kept open during the use of Dinghy?", OPEN, "statement", "Dinghy", "reason"),
        ("What are the benefits of Dinghy for training and serving?", PLATFORM, "definition", "Dinghy", "does not"),
        ("What is a platform for training chatbots?", PLATFORM, "definition", "Dinghy", "only mentions"),
        ("Is Dinghy an open platform?", PLATFORM, "definition", "Dinghy", "yes/no"),
        ("How do we keep the desktop open during the use of Dinghy?", OPEN, "statement", "Dinghy", "points at"),
        ("What should you do with the desktop to keep this open?", OPEN, "statement", "Dinghy", "points at"),
        ("What is the purpose of the The Dinghy platform?", PLATFORM, "definition", "Dinghy", "grammatical"),
        ("What is the provided platform for training and serving?", PLATFORM, "definition", "Dinghy", "points at"),
        ("How many servers run in one shell?", SERVE, "command", "run the server in one shell", "commands"),
        ("What is the driver version?", OLD, "condition", "the driver is too old", "too little"),
        ("Which platform uses Docker?", PLATFORM, "definition", "Dinghy", "does not say"),
        ("How can you place models by copying with Run Dinghy?", PLACE, "statement", "x", "title of the page"),
        ("What command places models in a browser download?", PLACE, "statement", "Dinghy", "a command"),
        ("Where is the default place of models by download in the browser?", PLACE, "statement", "Dinghy", "default"),
        ("What is the purpose of copying models to place a download?", PLACE, "statement", "x", "grammatical"),
    ],
)
def test_a_question_that_promises_something_else_is_refused(question, answer, kind, subject, why):
    assert why in (fluent_problem(question, fact(answer, kind, subject), page()) or "")


def test_a_title_that_is_an_action_is_quoted():
    assert placed("What should be done if connections fail?", page()) == (
        'About "Run Dinghy on Quay server": what should be done if connections fail?'
    )
    assert set_in("What is tuning?", "Releases") == "What is tuning?"
    assert set_in("What does the server read?", "Quay server") == "In Quay server, what does the server read?"


@pytest.mark.parametrize(
    "text",
    [
        "For optimal performance, it is recommended to set several environment variables.",
        "To integrate it, follow the Quay Quickstart guide.",
        "When you start the server and it has clients, but no disk is there.",
        "As the two modules are already provided by the third.",
        "Open the provided local URL in your browser to begin.",
        "The settings of the log are the same as defined elsewhere.",
    ],
)
def test_sentences_that_promise_and_do_not_tell_are_no_facts(text):
    assert not sentences.stands_alone(text)


@pytest.mark.parametrize(
    "text",
    [
        "If you have little memory, set `QUAY_SMALL=1` before the start.",
        "When the disk is full, the server stops and keeps its ledger.",
        "Several environment variables such as `QUAY_LISTS` change the speed.",
    ],
)
def test_sentences_that_tell_are_facts(text):
    assert sentences.stands_alone(text)


def test_a_view_names_a_page_by_its_title():
    assert views._titled("Run Dinghy on Quay server") == '"Run Dinghy on Quay server"'
    assert views._titled("Quay server") == "about Quay server"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What should I do if the disk is full?", "If the disk is full of old files, remove them by hand."),
        ("What is `depth`?", "`depth`: The number of the folders that the server goes down to."),
        ("What should I change?", "Please change the port of the server before the second start."),
    ],
)
def test_an_instruction_or_an_entry_is_neither_true_nor_false(question, answer):
    one = page()
    for number in range(20):
        pair = Pair(f"{number:016x}", one.id, question, answer, answer, 0, 10, "statement")
        assert not list(views.true_false(Grounded(pair, one, "model", (), ""), views.corpus([one])))


def test_a_statement_is_completed_only_from_a_start_that_tells():
    one = page()

    def starts(answer):
        pair = Pair("0" * 16, one.id, "What is it?", answer, answer, 0, 10, "statement")
        made = views.completion(Grounded(pair, one, "model", (), ""), views.corpus([one]))
        return [question for _, question, _ in made]

    assert starts(LISTS) == [
        'Complete this statement from "Run Dinghy on Quay server": '
        '"The environment variable QUAY_LISTS determines the ..."'
    ]
    assert starts("For convenience, we have provided a script that starts the server and its clients.") == []
    assert starts("Quay Extension for Dinghy is licensed under Apache License Version 2.0.") == []


def test_a_question_without_a_thing_has_no_other_grammar():
    assert list(views.rewordings("What is not supported by the card?")) == []
    assert "What is meant by a ledger?" in list(views.rewordings("What is a ledger?"))


def test_a_claim_is_made_only_where_it_could_be_false_and_half_of_them_are():
    one = page()
    count = {"True": 0, "False": 0}
    for number in range(200):
        answer = "The server keeps at most 12 ledgers of old clients open."
        pair = Pair(f"{number:016x}", one.id, "How many ledgers?", answer, answer, 0, 10, "statement")
        for _, _, said in views.true_false(Grounded(pair, one, "model", (), ""), views.corpus([one])):
            count[said.partition(".")[0]] += 1
        plain = Pair(f"{number:016x}", one.id, "What is Dinghy?", PLATFORM, PLATFORM, 0, 10, "statement")
        assert not list(views.true_false(Grounded(plain, one, "model", (), ""), views.corpus([one])))
    assert sum(count.values()) == 200 and min(count.values()) > 70


def test_what_is_said_of_many_things_finds_none():
    one = page()
    answer = "Quay v2 is the new release which supports two more cards."
    pair = Pair("0" * 16, one.id, "What is Quay v2?", answer, answer, 0, 10, "definition")
    assert not list(views.reversed_view(Grounded(pair, one, "model", (), "Quay v2"), views.corpus([one])))


def test_a_quoted_title_stays_quoted_in_other_grammar():
    found = list(views.rewordings('About "Run Dinghy on Quay server": how do I stop it all?'))
    assert 'About "Run Dinghy on Quay server": how can I stop it all?' in found
    assert not any(one.startswith("In Run") for one in found)
