"""reStructuredText -> Markdown: docutils reads it, and its HTML goes the way of every other page.

Sphinx's own directives and roles are unknown to docutils. Those with a meaning for the reader are taught to it here;
any other directive keeps its content, any other role its words, so that nothing is lost and nothing ends in an error
message inside the text.
"""

import io
import re
from functools import cache

from dataset_builder.sources.common import Unreadable

_DROPPED = frozenset(
    {
        "toctree",
        "index",
        "highlight",
        "default-role",
        "meta",
        "currentmodule",
        "module-index",
        "sectionauthor",
        "codeauthor",
        "tabularcolumns",
        "bibliography",
        "contents",
        "sectnum",
        "target-notes",
        "image",
        "raw",
        "include",
        "mermaid",
        "graphviz",
        "plot",
        "automodule-skip",
        "role",
        "restructuredtext-test-directive",
        "google-search",
    }
)
_CODE = frozenset(
    {
        "code-block",
        "sourcecode",
        "code-cell",
        "ipython",
        "prompt",
        "parsed-literal-block",
        "testcode",
        "doctest",
        "jupyter-execute",
        "console",
        "highlight-block",
        "testsetup",
        "testoutput",
    }
)
_TITLED = frozenset(
    {
        "note",
        "warning",
        "tip",
        "seealso",
        "versionadded",
        "versionchanged",
        "deprecated",
        "versionremoved",
        "todo",
        "tab",
        "tab-item",
        "dropdown",
        "card",
        "grid-item-card",
        "rubric",
        "centered",
        "admonition-todo",
        "important-note",
    }
)
_OBJECT = re.compile(
    r"^(?:(?:py|c|cpp|js|rst|std|cmake|confval):)?(?:function|class|method|attribute|data|exception|module|classmethod|staticmethod|"
    r"property|option|envvar|confval|macro|type|struct|enum|enumerator|member|var|directive|decorator|describe|object|"
    r"automodule|autoclass|autofunction|automethod|autodata|autoattribute|autoexception|program|command|cmdoption)$"
)


def to_html(text: str, name: str = "<rst>") -> str:
    """The document as an HTML page. Raises Unreadable where even docutils gives up."""
    from docutils.core import publish_parts
    from docutils.utils import SystemMessage

    teach()
    _learn_unknown(text)
    settings = {
        "halt_level": 5,
        "report_level": 5,
        "warning_stream": io.StringIO(),
        "input_encoding": "unicode",
        "output_encoding": "unicode",
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "_disable_config": True,
        "syntax_highlight": "none",
        "embed_stylesheet": False,
        "stylesheet_path": None,
        "stylesheet": None,
        "doctitle_xform": True,
        "sectsubtitle_xform": False,
        "initial_header_level": 2,
        "math_output": "LaTeX",
        "smart_quotes": False,
        "footnote_references": "brackets",
        "line_length_limit": 200_000,
    }
    try:
        parts = publish_parts(_known_substitutions(text), source_path=name, writer="html5", settings_overrides=settings)
    except (
        SystemMessage,
        RecursionError,
        ValueError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        AssertionError,
    ) as error:
        raise Unreadable(f"docutils cannot read it: {str(error)[:200] or type(error).__name__}") from error
    title = parts.get("title") or ""
    return f"<html><head><title>{title}</title></head><body><main>{parts['html_body']}</main></body></html>"


def _known_substitutions(text: str) -> str:
    """Substitutions that the document does not define (Sphinx's conf.py does) become their own name in words."""
    defined = {match.lower() for match in re.findall(r"(?m)^\s*\.\. \|([^|\n]+)\|", text)}
    used = {
        name
        for name in re.findall(r"(?<![\w|`])\|(\S(?:[^|\n`]{0,60}\S)?)\|(?![\w|`])", text)
        if name.lower() not in defined
    }
    simple = sorted(name for name in used if re.fullmatch(r"[\w .+-]+", name))
    return text + "\n\n" + "".join(f".. |{name}| replace:: {name}\n" for name in simple) if simple else text


@cache
def teach() -> None:
    """Teach docutils the roles and directives of Sphinx that have a plain meaning. Once a process: docutils' registers
    are global."""
    from docutils import nodes
    from docutils.parsers.rst import directives, roles

    for name in (
        "ref",
        "doc",
        "numref",
        "term",
        "any",
        "download",
        "menuselection",
        "guilabel",
        "dfn",
        "abbr",
        "eq",
        "external",
        "pep",
        "rfc",
        "issue",
        "pr",
        "ghuser",
        "user",
        "cve",
    ):
        roles.register_local_role(name, _words_role(nodes.inline))
    for name in (
        "code",
        "file",
        "samp",
        "kbd",
        "command",
        "program",
        "option",
        "envvar",
        "makevar",
        "mimetype",
        "regexp",
        "token",
        "keyword",
        "manpage",
        "mod",
        "func",
        "class",
        "meth",
        "attr",
        "exc",
        "data",
        "obj",
        "const",
        "confval",
        "setting",
    ):
        roles.register_local_role(name, _words_role(nodes.literal))
    for name in _CODE:
        directives.register_directive(name, _code_directive())
    for name in _DROPPED:
        directives.register_directive(name, _container_directive(keep=False))
    for name in _TITLED - {"note", "warning", "tip", "rubric"}:
        directives.register_directive(name, _container_directive(titled=True))
    directives.register_directive("only", _container_directive(skip_argument=True))
    directives.register_directive("ifconfig", _container_directive(skip_argument=True))
    directives.register_directive("literalinclude", _container_directive(keep=False))


def _learn_unknown(text: str) -> None:
    """Register a plain reading for every directive and role that this text uses and docutils does not know."""
    from docutils import nodes
    from docutils.parsers.rst import directives, roles
    from docutils.parsers.rst.languages import en as rst_en

    for name in set(re.findall(r"(?m)^[ \t]*(?:[-*|] +)*\.\. +(?:\|[^|\n]+\| +)?([A-Za-z][\w:.+-]*?)::(?:\s|$)", text)):
        lowered = name.lower()
        if (
            lowered in directives._directives
            or lowered in rst_en.directives
            or lowered in directives._directive_registry
        ):
            continue
        object_like = _OBJECT.match(lowered)
        directives.register_directive(lowered, _object_directive() if object_like else _container_directive())
    for name in set(re.findall(r":([A-Za-z][\w:.+-]*):`", text)):
        lowered = name.lower()
        if lowered not in roles._roles and lowered not in roles._role_registry and lowered not in rst_en.roles:
            roles.register_local_role(
                lowered, _words_role(nodes.literal if ":" in lowered or lowered in ("c", "cpp") else nodes.inline)
            )


def _words_role(node_class):
    def role(name, rawtext, text, lineno, inliner, options=None, content=None):
        from docutils.utils import unescape

        words = unescape(text)
        match = re.fullmatch(r"(?s)(.*?)\s*<([^<>]*)>", words)
        if match and match[1]:
            words = match[1]
        elif words.startswith(("!", "~")):
            words = words[1:].rsplit(".", 1)[-1] if words[0] == "~" else words[1:]
        return [node_class(rawtext, words)], []

    return role


def _code_directive():
    from docutils import nodes
    from docutils.parsers.rst import Directive

    class Code(Directive):
        optional_arguments, final_argument_whitespace, has_content, option_spec = 1, True, True, _AnyOption()

        def run(self):
            block = nodes.literal_block("\n".join(self.content), "\n".join(self.content))
            language = (self.arguments[0].split() or [""])[0] if self.arguments else ""
            block["classes"] += ["code", language or ("python" if self.name in ("testcode", "ipython") else "")]
            caption = self.options.get("caption")
            return [*([nodes.paragraph(caption, caption)] if caption else []), block] if self.content else []

    return Code


def _container_directive(keep: bool = True, titled: bool = False, skip_argument: bool = False):
    from docutils import nodes
    from docutils.parsers.rst import Directive

    class Container(Directive):
        optional_arguments, final_argument_whitespace, has_content, option_spec = 1, True, True, _AnyOption()

        def run(self):
            if not keep:
                return []
            found: list = []
            if titled or (self.arguments and not skip_argument):
                argument, rest = self.arguments[0] if self.arguments else "", ""
                if self.name.startswith(("version", "deprecated")):  # the text may follow the number directly
                    argument, rest = [*argument.split(None, 1), "", ""][:2]
                words = _lead_words(self.name, argument)
                strong = nodes.strong(words, "", *self.state.inline_text(words, self.lineno)[0])
                more = [nodes.Text(": "), *self.state.inline_text(rest, self.lineno)[0]] if rest else []
                found.append(nodes.paragraph(words, "", strong, *more))
            box = nodes.container()
            self.state.nested_parse(self.content, self.content_offset, box, match_titles=True)
            return [*found, *box.children]

    return Container


def _lead_words(name: str, argument: str) -> str:
    words = {
        "versionadded": "New in version",
        "versionchanged": "Changed in version",
        "deprecated": "Deprecated since version",
        "versionremoved": "Removed in version",
        "seealso": "See also:",
        "todo": "To do:",
    }.get(name, "")
    return f"{words} {argument}".strip() or name


def _object_directive():
    from docutils import nodes
    from docutils.parsers.rst import Directive

    class Object(Directive):
        optional_arguments, final_argument_whitespace, has_content, option_spec = 1, True, True, _AnyOption()

        def run(self):
            signatures = [
                line.strip().rstrip("\\")
                for line in (self.arguments[0] if self.arguments else "").split("\n")
                if line.strip()
            ]
            body = nodes.definition()
            self.state.nested_parse(self.content, self.content_offset, body, match_titles=True)
            terms = [nodes.term(signature, signature, classes=["sig"]) for signature in signatures]
            if not terms:
                return body.children
            item = nodes.definition_list_item("", *terms[:1], body)
            return [nodes.definition_list("", item, classes=["function"])]

    return Object


class _AnyOption(dict):
    """An option_spec that knows every option and keeps its text."""

    def __getitem__(self, key):
        return lambda argument: argument or ""

    def __contains__(self, key):
        return True

    def __bool__(self):
        return True
