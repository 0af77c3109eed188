"""Docstrings as web pages: what is aligned in columns stays so, and examples are examples.

An extension for mkdocstrings. The docstrings of this package are read in terminals first: arguments
are a column of names beside a column of text, which Markdown would run together.
"""

import re
import textwrap

import griffe

COLUMNS = re.compile(r"^\w\S*(, \S+)* {2,}\S", re.MULTILINE)


def as_markdown(text: str) -> str:
    """Paragraphs with columns become literal blocks; those that begin with >>> fenced ones."""
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text))


def _paragraph(text: str) -> str:
    if text.startswith(">>>"):
        return f"```pycon\n{text}\n```"
    return textwrap.indent(text, "    ") if COLUMNS.search(text) else text


class Aligned(griffe.Extension):
    """Applied to each docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is not None:
            # Cleaned of its indentation by griffe's own property, as `inspect.cleandoc` does.
            obj.docstring.value = as_markdown(obj.docstring.value)
