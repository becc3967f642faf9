"""HTML, reStructuredText, notebooks and the other formats as Markdown."""

import contextlib
import io
import json
import re
import textwrap
import zipfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dataset_builder.formats import Unreadable, read, without_jsx
from dataset_builder.markdown import decode, from_html, tidy
from dataset_builder.readers import pdf_paragraphs

PAGES = sorted((Path(__file__).parent / "data" / "html").glob("*.html"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_pages_of_the_four_generators(path):
    assert from_html(path.read_text(encoding="utf-8")).markdown == path.with_suffix(".md").read_text(encoding="utf-8")


def test_every_page_has_its_markdown_and_the_reverse():
    assert {path.stem for path in PAGES} == {path.stem for path in PAGES[0].parent.glob("*.md")} and len(PAGES) >= 4


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_navigation_stays(path):
    markdown = from_html(path.read_text(encoding="utf-8")).markdown
    for words in (
        "Installation",
        "Application Interface",
        "Next chapter",
        "Install it",
        "LoRA section",
        "Next page",
        "Introduction page",
        "Blog posts",
        "Plugins page",
        "Keys in this page",
        "Edit this page",
        "About us",
        "List of options",
        "Copy",
        "¶",
        "Last updated",
    ):
        assert words not in markdown


def test_what_a_page_says_of_itself():
    page = from_html(PAGES[-1].read_text(encoding="utf-8"), "http://x.example/a/memory.html")
    assert PAGES[-1].stem == "sphinx"
    assert page.title == "Memory"
    assert page.canonical == "https://docs.example.org/widget/stable/memory.html"
    assert page.licence == "CC-BY-4.0"
    assert "http://x.example/a/next.html" in page.links and "https://example.com/paper" in page.links


def body(html: str) -> str:
    return from_html(f"<html><head><title>T</title></head><body><main>{html}</main></body></html>").markdown


CODE = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), include_characters="\n"),
    min_size=1,
    max_size=300,
)


@given(CODE)
def test_any_code_survives_exactly_and_fenced(code):
    from html import escape

    wanted = re.sub(r"\A(?:[ \t]*\n)+", "", code.replace("\xa0", " ")).rstrip()  # as a browser copies it
    assume(wanted and not set(code) & set("\ufffe\uffff\ufeff\x85"))
    markdown = body(f"<p>before</p><div class='highlight-python'><pre>{escape(code)}</pre></div><p>after</p>")
    match = re.fullmatch(r"before\n\n(`{3,})python\n(.*)\n\1\n\nafter\n", markdown, re.S)
    assert match and match[2] == wanted


def test_headings_keep_their_level_and_identifiers():
    assert (
        body("<h1>A</h1><h3>The <code>lora_r</code> *and* sample_packing</h3>")
        == "# A\n\n### The `lora_r` *and* sample_packing\n"
    )


def test_prose_that_looks_like_markdown_stays_prose():
    assert (
        body("<p># no heading</p><p>1. no list</p><p>- nor this</p>")
        == "\\# no heading\n\n1\\. no list\n\n\\- nor this\n"
    )


def test_code_in_a_table_cell_is_fenced_below_the_table():
    markdown = body("<table><tr><th>a</th><th>b</th></tr><tr><td>x</td><td><pre>one\ntwo</pre></td></tr></table>")
    assert markdown == "| a | b |\n| --- | --- |\n| x | (code 1 below) |\n\n```\none\ntwo\n```\n"


def test_code_that_can_be_edited_is_code():
    """Code playgrounds, SyntaxHighlighter before 3, and the boxes that are none of it."""
    page = """<p>a</p><form><textarea class="playable-code" data-lang="html">
<p>Hi &amp;amp; <b>there</b></p>
  <!-- kept -->
</textarea></form><textarea name="code" class="php:nogutter">echo 1;</textarea><p>b</p>
<pre class="sh">pip install x</pre><textarea class="copy-source" hidden>pip install x
</textarea><div class="comment-editor"><textarea>Say something</textarea></div><textarea>Your name</textarea>
<div class="editor"><textarea></textarea></div><p>c</p>"""
    html = "```html\n<p>Hi &amp; <b>there</b></p>\n  <!-- kept -->\n```"
    assert body(page) == f"a\n\n{html}\n\n```php\necho 1;\n```\n\nb\n\n```\npip install x\n```\n\nc\n"


FOUR_LINES = ["def f(x):", "    if x &lt; 3:", "", "        return 7"]


@pytest.mark.parametrize("before, line, after", [
    ('<div class="fragment">', '<div class="line"><span class="lineno">{n:5}</span>{text}</div>\n', "</div>"),
    ('<pre><code><table class="hljs-ln">', '<tr><td class="hljs-ln-numbers"></td><td>{text}</td></tr>',
     "</table></code></pre>"),
    ('<pre><ol class="linenums">', "<li>{text}</li>", "</ol></pre>"),
    ("<pre><code>", '<span><span style="-webkit-user-select:none;user-select:none">{n}</span>{text}\n</span>',
     "</code></pre>"),
    ('<pre class="rust"><code>', '<a href="#{n}" data-nosnippet>{n}</a>{text}\n', "</code></pre>"),
    ("<table>", '<tr><td class="blob-num js-line-number"></td><td class="blob-code">{text}</td></tr>', "</table>"),
    ('<div class="language-x"><span class="lang">python</span><pre>', "{text}\n",
     '</pre><div class="line-numbers-wrapper"><span class="line-number">1</span><br><span>2</span></div></div>'),
], ids=["doxygen", "highlightjs", "prettify", "chroma", "rustdoc", "github", "vitepress"])  # fmt: skip
def test_lines_in_boxes_and_their_numbers(before, line, after):
    html = before + "".join(line.format(n=n, text=text) for n, text in enumerate(FOUR_LINES, 1)) + after
    wanted = "\n".join(FOUR_LINES).replace("&lt;", "<")
    assert re.sub("```.*", "```", body(f"<p>a</p>{html}<p>b</p>")) == f"a\n\n```\n{wanted}\n```\n\nb\n"


def test_a_power_is_no_longer_number():
    powers = "<p>10<sup>6</sup>, 2<sup>n-1</sup>, H<sub>2</sub>O, 3<sup>rd</sup>, "
    assert body(f'{powers}so<sup><a href="#f">1</a></sup> 77<sub>8</sub>') == "10^6, 2^(n-1), H2O, 3rd, so[1] 77_8\n"


def test_spans_of_cells_are_filled():
    markdown = body(
        "<table><tr><th colspan=2>ab</th><th>c</th></tr><tr><td rowspan=2>1</td><td>2</td><td>3</td></tr>"
        "<tr><td>4</td><td>5</td></tr></table>"
    )
    assert markdown.split("\n")[2:4] == ["| 1 | 2 | 3 |", "| 1 | 4 | 5 |"]
    assert all(line.count("|") == 4 for line in markdown.strip().split("\n"))


def test_a_page_without_any_known_mark_is_read_where_its_prose_is():
    html = """<html><body><div><div><ul><li><a href=a>Menu one</a></li><li><a href=b>Menu two</a></li></ul></div>
    <div><h1>Real</h1><p>%s</p><pre>code</pre></div></div></body></html>""" % ("Prose. " * 40)
    markdown = from_html(html).markdown
    assert markdown.startswith("# Real") and "Menu" not in markdown and "```\ncode\n```" in markdown


def test_deep_and_broken_html_is_read():
    assert "shallow" in from_html("<p>shallow</p>" + "<div>" * 5000 + "deep" + "</div>" * 10).markdown
    assert from_html("<div>" * 90 + "<p>deep words" + "</div>" * 10).markdown == "deep words\n"
    assert from_html("").markdown == "" and from_html("<!-- -->").markdown == ""
    assert from_html("<p>a\x00b<p>c").markdown == "ab\n\nc\n"


@given(st.text(max_size=500))
def test_no_html_raises(text):
    from_html("<body>" + text)
    from_html(text)


def test_charsets():
    assert decode("<meta charset=iso-8859-1><p>é".encode("latin-1")).endswith("é")
    assert decode("<p>é".encode("latin-1"), "iso-8859-1").endswith("é")
    assert decode("\ufeff<p>é".encode("utf-16")).endswith("é")
    assert decode("<p>naïve 漢字".encode()).endswith("naïve 漢字")


def test_tidy_leaves_code_alone():
    assert tidy("a  \n\n\n\nb\n```\nx  \n\n\n\ny\n```\n\n\n") == "a\n\nb\n```\nx  \n\n\n\ny\n```\n"


RST = """
Widget
======

See :ref:`the guide <guide>`, :py:func:`~widget.trim` and ``budget`` in |project|.

.. toctree::
   :maxdepth: 2

   hidden_page

.. note:: Mind the gap.

.. versionadded:: 2.1
   The option.

Usage
-----

.. code-block:: python
   :linenos:

   def f(x):

       return x  # |not a substitution|

Then::

   $ widget --trim

.. list-table:: Codes
   :header-rows: 1

   * - Code
     - Meaning
   * - 0
     - done

.. py:function:: widget.trim(keep=0)

   Free memory.

   :param keep: bytes to keep

.. made-up:: argument
   :option: 1

   Kept words.

.. image:: x.png
"""


def test_restructuredtext_with_sphinx_in_it():
    reading = read("widget.rst", RST.encode())
    assert reading.title == "Widget"
    for part in (
        "# Widget\n",
        "\n## Usage\n",
        "See the guide, `trim` and `budget` in project.",
        "```python\ndef f(x):\n\n    return x  # |not a substitution|\n```",
        "```\n$ widget --trim\n```",
        "| Code | Meaning |\n| --- | --- |\n| 0 | done |",
        "widget.trim(keep=0)",
        "Free memory.",
        "Kept words.",
        "**Note:** Mind the gap.",
        "New in version 2.1",
        "The option.",
    ):
        assert part in reading.markdown
    for part in ("hidden_page", "Unknown", "System Message", ":ref:", "x.png", "maxdepth"):
        assert part not in reading.markdown


@given(st.text(st.sampled_from(list(".. :`*|_\n -=[]()<>abc123#")), max_size=300))
def test_no_restructuredtext_gives_a_traceback(text):
    with contextlib.suppress(Unreadable):
        read("a.rst", text.encode())


def test_directives_that_read_files_read_none(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret words")
    text = (
        f"Title\n=====\n\nText.\n\n.. include:: {secret}\n\n.. literalinclude:: {secret}\n\n"
        f".. raw:: html\n   :file: {secret}\n\n.. csv-table::\n   :file: {secret}\n"
    )
    assert "top secret" not in read("a.rst", text.encode()).markdown


def test_notebooks():
    notebook = {
        "metadata": {"kernelspec": {"language": "python"}},
        "cells": [
            {"cell_type": "markdown", "source": ["# Note\n", "Text."]},
            {"cell_type": "code", "source": "print('```')", "outputs": [{"text": ["```\n"]}]},
            {"cell_type": "code", "source": "", "outputs": []},
        ],
    }
    assert (
        read("n.ipynb", json.dumps(notebook).encode()).markdown
        == "# Note\nText.\n\n````python\nprint('```')\n````\n\n````\n```\n````\n"
    )
    for broken in (b"{", b"[]", b'{"cells": 5}', b'{"cells": [5]}'):
        with pytest.raises(Unreadable, match=r"notebook|no text"):
            read("n.ipynb", broken)


def test_markdown_front_matter_is_taken_off():
    reading = read("a.md", b'---\ntitle: "The title"\nx: 1\n---\nText.\r\n')
    assert (reading.title, reading.markdown) == ("The title", "Text.\n")


def test_mdx_loses_its_components_and_no_code():
    text = (
        'import Tabs from "@theme/Tabs"\n\n# T\n\n<Tabs>\n<TabItem value="a" label="Linux">\n\n'
        '```jsx\nimport X from "x"\n<Tabs/>\n'
        "```\n\n</TabItem></Tabs>\n\n:::note\nMind.\n:::\n{/* gone */}"
    )
    assert (
        tidy(without_jsx(text)) == '# T\n\n**Linux**\n\n```jsx\nimport X from "x"\n<Tabs/>\n```\n\n**Note:**\n\nMind.\n'
    )


def test_docstrings_of_python():
    code = textwrap.dedent('''
        """Module words."""
        def public(a, b=1):
            """Add.

            >>> public(1)
            2
            """
        def _private():
            """Hidden."""
        class Thing:
            """A thing."""
            def act(self):
                """Acts."""
    ''')
    assert read("mod.py", code.encode()).markdown == (
        "# mod\n\nModule words.\n\n## public(a, b=1)\n\nAdd.\n\n```python\n>>> public(1)\n2\n```\n\n"
        "## Thing\n\nA thing.\n\n### Thing.act(self)\n\nActs.\n"
    )
    with pytest.raises(Unreadable, match="no docstrings"):
        read("mod.py", b"x = 1\n")
    with pytest.raises(Unreadable, match="not Python"):
        read("mod.py", b"def (")


def docx(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


X = "http://schemas.openxmlformats.org"
TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
WORD = {
    "[Content_Types].xml": f'''<Types xmlns="{X}/package/2006/content-types">
        <Default Extension="xml" ContentType="application/xml"/>
        <Override PartName="/word/document.xml" ContentType="{TYPE}"/></Types>'''.encode(),
    "_rels/.rels": f'''<Relationships xmlns="{X}/package/2006/relationships">
        <Relationship Id="r" Target="word/document.xml"
        Type="{X}/officeDocument/2006/relationships/officeDocument"/></Relationships>'''.encode(),
    "word/document.xml": f'''<w:document xmlns:w="{X}/wordprocessingml/2006/main"><w:body>
        <w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Title</w:t></w:r></w:p>
        <w:p><w:r><w:t>Some words.</w:t></w:r></w:p></w:body></w:document>'''.encode(),
}


def test_word_documents():
    reading = read("a.docx", docx(WORD))
    assert "Some words." in reading.markdown and "Title" in reading.markdown
    with pytest.raises(Unreadable, match="unpacks to"):
        read("a.docx", docx({**WORD, "word/big.xml": b"0" * 50_000_000}))
    with pytest.raises(Unreadable, match="entities"):
        read("a.docx", docx({**WORD, "word/document.xml": b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'}))
    for broken in (b"", b"PK\x03\x04rubbish", docx({})):
        with pytest.raises(Unreadable, match="damaged"):
            read("a.docx", broken)


def pdf(lines: list[str]) -> bytes:
    """A one-page PDF that a person could have written by hand."""
    drawn = "\n".join(
        f"BT /F1 12 Tf 50 {750 - 20 * number} Td ({line}) Tj ET" for number, line in enumerate(lines)
    ).encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(drawn), drawn),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, item)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"xref\n0 6\n0000000000 65535 f \n%strailer\n<</Root 1 0 R/Size 6>>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(out),
    )


def test_pdf():
    assert (
        read("a.pdf", pdf(["The allocator keeps five", "mega-", "bytes of memory."])).markdown
        == "The allocator keeps five megabytes of memory.\n"
    )
    unnamed = pdf(["The allocator keeps five"]).replace(b"/Size 6>>", b"/Size 6/Info<</Title(\\(anonymous\\))>>>>")
    assert read("my-notes.pdf", unnamed).title == read("my-notes.pdf", pdf(["The allocator keeps five"])).title
    with pytest.raises(Unreadable, match="images"):
        read("a.pdf", pdf([]))
    for broken in (b"", b"%PDF-1.4 rubbish", pdf(["x"])[:200]):
        with pytest.raises(Unreadable, match=r"damaged|images"):
            read("a.pdf", broken)


def test_running_heads_of_a_pdf_go():
    pages = [f"Guide {number}\nWords of page {number} that go on.\nPage {number}" for number in range(1, 7)]
    assert (
        "Guide" not in pdf_paragraphs(pages)
        and "Page 3" not in pdf_paragraphs(pages)
        and "Words of page 3" in pdf_paragraphs(pages)
    )


def test_binary_and_unknown_files_are_unreadable():
    for name, data, reason in (
        ("a.md", b"\0\1\2", "binary"),
        ("a.html", b"\0" * 50, "binary"),
        ("a.exe", b"x", "not documents"),
        ("a", b"x", "nothing"),
        ("a.txt", b" \n", "no text"),
    ):
        with pytest.raises(Unreadable, match=reason):
            read(name, data)
