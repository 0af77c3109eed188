"""Docstrings as web pages: what is aligned in columns stays so, examples are examples, and pages of
the documentation that are named are links.

An extension for mkdocstrings. The docstrings of this package are read in terminals first: arguments
are a column of names beside a column of text, which Markdown would run together. Fields of a class
are described by comments beside them, which are shown as they stand.
"""

import ast
import re
import textwrap

import griffe

PAGE = re.compile(r"docs/([\w-]+\.md(?:#[\w-]+)?)")
COLUMNS = re.compile(r"^\w\S*(, \S+)* {2,}\S", re.MULTILINE)


def as_markdown(text: str) -> str:
    """Paragraphs with columns become literal blocks; those that begin with >>> fenced ones."""
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text))


def _paragraph(text: str) -> str:
    if text.startswith(">>>"):
        return f"```pycon\n{text}\n```"
    if COLUMNS.search(text):
        return textwrap.indent(text, "    ")
    return PAGE.sub(r"[\1](\1)", text)


def fields(source: str) -> str:
    """The lines of a class from its first field to its last, with their comments."""
    source = textwrap.dedent(source)
    (node,) = ast.parse(source).body
    body = node.body if isinstance(node, ast.ClassDef) else []
    own = [one for one in body if isinstance(one, ast.AnnAssign)]
    if not own:
        return ""
    lines = source.splitlines()[own[0].lineno - 1 : own[-1].end_lineno]
    return textwrap.dedent("\n".join(lines))


class Aligned(griffe.Extension):
    """Applied to each docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
            if obj.is_class and (lines := fields(obj.source)):
                obj.docstring.value += f"\n\n```python\n{lines}\n```"
