"""Figures with their captions and numbers, on one page that a browser shows."""

import json
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from ..files import whole_file
from .base import PAGE_STYLE, Format, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 8  # numbers of a list that a cell of a table shows


def save_with_caption(
    figure: "Figure",
    folder: str | os.PathLike[str],
    name: str,
    *,
    title: str,
    caption: str,
    numbers: dict[str, Any],
    format: Format = "png",
    overwrite: bool = False,
) -> None:
    """Write `name.png` (or svg, pdf) and `name.json`, which says what the figure shows.
    InputError if one of them exists, unless `overwrite`.

    title    a few words
    caption  a paragraph: what is drawn, of which problem, in which units, and what it shows
    numbers  of the figure, or those that its text quotes: plain numbers, lists and dictionaries
    """
    folder = Path(folder)
    with whole_file(folder / f"{name}.{format}", overwrite=overwrite) as temporary:
        save_figure(figure, temporary, format=format)
    said = {"title": title, "caption": caption, "image": f"{name}.{format}", "numbers": numbers}
    with whole_file(folder / f"{name}.json", overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


class Shown(NamedTuple):
    """A figure of the page, or why it is not there."""

    name: str
    folder: str  # where `save_with_caption` has put it, relative to the page
    command: str
    seconds: float | None  # None: it was not made
    said: dict[str, Any] | None  # what `save_with_caption` has written
    missing: str = ""  # why there is no figure
    output: str = ""  # file of what its script has printed, relative to the page


def html_page(title: str, text: str, figures: Sequence[Shown]) -> str:
    """HTML of figures that are in folders beside it; it needs nothing else."""
    items = "\n".join(
        f'<li><a href="#{quote(one.name)}">{escape(_title(one))}</a>{_note(one)}</li>'
        for one in figures
    )
    sections = "\n".join(map(_section, figures))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{PAGE_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{escape(text)}</p>\n"
        f"<nav>\n<ol>\n{items}\n</ol>\n</nav>\n{sections}\n</body>\n</html>\n"
    )


def _title(one: Shown) -> str:
    return one.said["title"] if one.said else one.name


def _note(one: Shown) -> str:
    return f' <span class="bad">({escape(one.missing)})</span>' if one.missing else ""


def _section(one: Shown) -> str:
    name = "" if _title(one) == one.name else f' <span class="dim">{escape(one.name)}</span>'
    lines = [f'<section id="{escape(one.name)}">', f"<h2>{escape(_title(one))}{name}</h2>"]
    if one.missing:
        lines.append(f'<p class="bad">No figure: {escape(one.missing)}.</p>')
    if one.said:
        image = quote(f"{one.folder}/{one.said['image']}")
        if one.said["image"].endswith(".pdf"):
            shown = f'<p><a href="{image}">{escape(one.said["image"])}</a></p>'
        else:
            shown = f'<a href="{image}"><img src="{image}" alt="{escape(_title(one))}"></a>'
        caption = f"<figcaption>{escape(one.said['caption'])}</figcaption>"
        lines += ["<figure>", shown, caption, "</figure>"]
        lines += ["<details>", "<summary>Numbers</summary>", _tables(one.said["numbers"])]
        lines.append("</details>")
    took = "" if one.seconds is None else f"{one.seconds:.0f} s. "
    output = f'<a href="{quote(one.output)}">What it printed</a>' if one.output else ""
    if one.said:
        file = quote(f"{one.folder}/{one.name}.json")
        output = f'<a href="{file}">All its numbers</a>. {output}'
    lines.append(f"<pre><code>{escape(one.command)}</code></pre>")
    lines.append(f'<p class="dim">{took}{output}</p>')
    return "\n".join([*lines, "</section>"])


def _tables(numbers: dict[str, Any]) -> str:
    """Numbers within dictionaries, of any depth: the innermost keys are the columns; rows that have
    the same ones are a table."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for path, value in _leaves(numbers, ()):
        rows.setdefault(path[:-1], {})[path[-1]] = value
    alike: dict[frozenset[str], list[tuple[str, ...]]] = {}
    for path, row in rows.items():
        alike.setdefault(frozenset(row), []).append(path)
    tables = []
    for paths in alike.values():
        columns = list(rows[paths[0]])
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
        lines = [f"<thead><tr><th></th>{head}</tr></thead>", "<tbody>"]
        for path in paths:
            cells = "".join(f"<td>{escape(rows[path][name])}</td>" for name in columns)
            lines.append(f'<tr><th scope="row">{escape(" / ".join(path))}</th>{cells}</tr>')
        tables.append("\n".join(['<div class="table"><table>', *lines, "</tbody></table></div>"]))
    return "\n".join(tables)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every number with the keys that lead to it; long lists stay in the file."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(number + 1)))
    elif not isinstance(value, list):
        yield path or ("",), _number(value)
    elif len(value) <= LONGEST:
        yield path or ("",), ", ".join(map(_number, value))
    else:
        yield path or ("",), f"{len(value)} values"


def _number(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.4g}" if is_number else "" if value is None else str(value)
