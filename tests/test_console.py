"""What the commands print: nothing is cut, and who ended a search is told so."""

import pytest
from commandline import QUICK, SMALL, by_adam, compile_quickly, workplace  # noqa: F401
from rich.console import Console
from rich.table import Table

from spectralpost.cli import main
from spectralpost.commands import console

NUMBERS = ("0.0123456", "25.6789", "1.23456e-07", "98.7654321")


@pytest.mark.parametrize("width", [20, 40, 55, 300])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_no_number_is_cut(monkeypatch, capsys, width, is_terminal):
    table = Table(title="a table", caption="of numbers")
    table.add_column("words")
    for i in range(len(NUMBERS)):
        table.add_column(f"number {i}", justify="right", no_wrap=True)
    table.add_row("some words to be folded", *NUMBERS)
    monkeypatch.setattr(console, "console", Console(width=width, force_terminal=is_terminal))
    console.print_whole(table, spare=(3, 1))
    printed = capsys.readouterr().out
    assert "…" not in printed
    left_out = {20: (0, 2), 40: (0, 2), 55: (2,), 300: ()}[width] if is_terminal else ()
    for i, number in enumerate(NUMBERS):
        assert (number in printed) == (i not in left_out)
    words = " ".join(printed.split())
    assert (f"shows {len(left_out)} columns more" in words) == bool(left_out)


@pytest.mark.usefixtures("by_adam")
@pytest.mark.parametrize("command", ["compare", "tradeoff", "evaluate"])
def test_an_ended_search_is_said(w, tmp_path, monkeypatch, capsys, command):
    def enough(progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"spectralpost.commands.{command}.watched", lambda say, title="": enough)
    problem = f"--images {w}/images {QUICK}"
    lines = {
        "compare": f"compare {problem} --samplers dps --no-check",
        "tradeoff": f"tradeoff {problem} --prices 1",
        "evaluate": f"evaluate {w}/designed/schedule.json",
    }
    main([*lines[command].split(), *SMALL.split(), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    names = {
        "compare": "dps (5 steps)",
        "tradeoff": "learned, W2^2, learned, price 1",
        "evaluate": "learned for this problem",
    }
    assert f"Interrupted, so the best so far: {names[command]}." in printed
