"""What models put around their answers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from dataset_builder.replies import BadReply, as_model, has_thoughts, json_in, tagged_lines, without_thoughts


@pytest.mark.parametrize(("text", "left"), [
    ("plain", "plain"),
    ("<think>a\nb</think>\n\nanswer", "answer"),
    ("a</think> answer", "answer"),
    ("<think>never ends {\"a\": 1}", ""),
    ("<thinking>x</thinking>one<think>y</think>two", "onetwo"),
    ("2 < 3 and <b>bold</b>", "2 < 3 and <b>bold</b>"),
])
def test_thoughts_are_taken_off(text, left):
    assert without_thoughts(text) == left
    assert has_thoughts(text) == (text != left)


@pytest.mark.parametrize("text", [
    '{"a": [1, 2]}',
    'Here you are:\n```json\n{"a": [1, 2]}\n```\nEnjoy!',
    '```\n{"a": [1, 2]}\n```',
    '<think>{"b": 1}</think>{"a": [1, 2]}',
    'Sure: {"a": [1, 2]} and more {words}',
    '{"a": [1, 2,]}',
    "{'a': [1, 2]}",
    '{a: [1, 2]}',
    '{"a": [1, 2]} // done',
])
def test_json_is_found_and_mended(text):
    assert json_in(text) == {"a": [1, 2]}


@pytest.mark.parametrize("text", ["", "I cannot do that.", "{}}{", '{"a": "an answer cut in the mid',
                                  '{"pairs": [{"q": "one", "a": "two"}, {"q": "thr'])
def test_no_json_or_half_of_it_is_refused(text):
    if text == "{}}{":
        assert json_in(text) == {}
        return
    with pytest.raises(BadReply):
        json_in(text)


def test_whole_leading_items_of_a_cut_reply_can_be_asked_for():
    value = json_in('{"pairs": [{"q": "one", "a": "two"}, {"q": "thr', truncated=True)
    assert value["pairs"][0] == {"q": "one", "a": "two"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20)


@given(st.dictionaries(st.text(), json_values, min_size=1, max_size=4))
def test_every_json_object_comes_back(value):
    if "<think" not in json.dumps(value):
        assert json_in(f"Reply:\n```json\n{json.dumps(value, indent=1)}\n```") == value


@given(st.text(max_size=300))
def test_any_text_gives_json_or_badreply(text):
    try:
        json_in(text)
    except BadReply as bad:
        assert str(bad)


class Pairs(BaseModel):
    pairs: list[dict] = Field(min_length=1)


def test_model_of_a_reply():
    assert as_model(Pairs, '{"pairs": [{"q": 1}]}').pairs == [{"q": 1}]
    with pytest.raises(BadReply, match="pairs"):
        as_model(Pairs, '{"pairs": []}')


def test_tagged_lines_as_weak_models_write_them():
    text = ("Sure!\n1. **QUESTION:** What is it?\n   ANSWER: A card,\nwith a slot.\n- Quote: a card\n\n"
            "QUESTION 2: And this?\nAnswer: no quote here\nquestion: Last?\nanswer: yes\nquote: it is so\n")
    assert tagged_lines(text, ["QUESTION", "ANSWER", "QUOTE"]) == [
        {"QUESTION": "What is it?", "ANSWER": "A card,\nwith a slot.", "QUOTE": "a card"},
        {"QUESTION": "Last?", "ANSWER": "yes", "QUOTE": "it is so"}]
    assert tagged_lines("nothing of the kind", ["Q", "A"]) == []
