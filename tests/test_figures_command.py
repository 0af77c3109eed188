"""`spectralpost figures`: scripts are run, and a page shows what they have drawn."""

import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from spectralpost.cli import main
from spectralpost.commands import figures
from spectralpost.figures import Shown, html_page
from spectralpost.files import locked_file

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
BROWSER = shutil.which("chromium") or shutil.which("chrome") or shutil.which("google-chrome")

# A script in place of one that takes seconds: what it draws is none.
DRAWS = """
import json, sys
from pathlib import Path
name, arguments = Path(__file__).stem, sys.argv[1:]
out = Path(arguments[arguments.index("--out") + 1])
kind = arguments[arguments.index("--format") + 1]
out.mkdir(exist_ok=True)
with open(out.parent / "order", "a") as file:
    file.write(name + " ")
assert not list(out.glob(name + ".*")), "is there"
(out / f"{name}.{kind}").write_text("an image")
said = {"title": "A <title> & more", "caption": "What\\nis drawn: 1 < 2."}
said["image"] = f"{name}.{kind}"
said["numbers"] = {"a": {"W2^2": 0.12345678, "steps": 3}, "b": {"W2^2": 2.0, "many": [0] * 100}}
(out / f"{name}.json").write_text(json.dumps(said))
print("drawn with", *arguments)
"""
FAILS = "import sys\nprint('on the way')\nsys.exit('robust: not as expected: 3')\n"
NOTHING = "print('nothing')\n"


class Page(HTMLParser):
    """What a page holds; that every element is closed."""

    EMPTY = frozenset({"meta", "img", "br"})

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.links, self.images, self.ids = [], [], [], []
        self.text: dict[str, list[str]] = {}
        self.feed(path.read_text("utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in self.EMPTY:
            self.open.append(tag)
            self.text.setdefault(tag, []).append("")
        if tag == "img":
            assert given["alt"]
            self.images.append(unquote(given["src"]))
        if tag == "a":
            self.links.append(unquote(given["href"]))
        if "id" in given:
            self.ids.append(given["id"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open[-1:]:
            self.text[tag][-1] += data


def checked(folder: Path) -> Page:
    """A page whose files are all there, and which has a caption and a command for each figure."""
    page = Page(folder / "index.html")
    links = [link for link in page.links if not link.startswith("#")]
    assert all((folder / name).is_file() for name in page.images + links)
    assert [link[1:] for link in page.links if link.startswith("#")] == page.ids
    captions, commands = page.text.get("figcaption", []), page.text["code"]
    assert all(len(text) > 10 for text in captions)
    assert [one.split()[1] for one in commands] == [f"experiments/{name}.py" for name in page.ids]
    assert "http" not in (folder / "index.html").read_text("utf-8")  # nothing is fetched
    return page


@pytest.fixture(name="scripts")
def scripts_of_a_checkout(tmp_path, monkeypatch):
    """A folder with scripts that take no time."""
    folder = tmp_path / "source" / "experiments"
    folder.mkdir(parents=True)
    for name in figures.SCRIPTS:
        (folder / f"{name}.py").write_text(DRAWS)
    monkeypatch.setattr(figures, "CHECKOUT", folder.parent)
    monkeypatch.chdir(tmp_path)
    return folder


def run(arguments: str, capsys) -> tuple[int, str, str]:
    """Exit code, what was printed, what was said of errors."""
    try:
        main(["figures", *shlex.split(arguments)])
        code = 0
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    return code, said.out, said.err


def test_scripts_are_those_that_draw():
    """The table names all scripts that are asked for a figure's format, and no others; each saves
    it with a caption, here or in its parts."""
    texts = {path.stem: path.read_text() for path in EXPERIMENTS.glob("*.py")}
    drawing = {name for name, text in texts.items() if "format: Format" in text}
    saving = {name for name, text in texts.items() if "save_with_caption(" in text}
    assert drawing == set(figures.SCRIPTS)
    assert saving == drawing - {"real_networks"}
    assert "save_with_caption(" in (EXPERIMENTS / "on_networks" / "shown.py").read_text()


def test_all_figures_in_order(scripts, tmp_path, capsys):
    """Those whose data are not at hand are left out and said so, which is no failure."""
    code, printed, _ = run("--out a/b", capsys)
    assert code == 0
    needy = {name for name, files in figures.SCRIPTS.items() if any(file.needed for file in files)}
    without = [name for name in figures.SCRIPTS if name not in needy]
    assert (tmp_path / "a/b/order").read_text().split() == without
    page = checked(tmp_path / "a/b")
    assert page.ids == list(figures.SCRIPTS)
    assert page.images == [f"{name}/{name}.png" for name in without]
    assert page.text["h2"][0].strip() == "A <title> & more"
    assert len(page.text["figcaption"]) == len(without)
    lines = printed.splitlines()
    assert lines[-1] == "results in a/b: index.html"
    (left,) = [line for line in lines if line.startswith("real_networks")]
    assert left.endswith("left out, it is of cifar10.npz (no --data)")
    assert sum("left out" in text for text in page.text["p"]) == len(figures.SCRIPTS) - len(without)
    # A table for each kind of rows.
    assert page.text["th"].count("W2^2") == 2 * len(without)
    assert "0.1235" in page.text["td"] and "100 values" in page.text["td"]


def test_figures_of_data(scripts, tmp_path, capsys):
    """A folder to which data have come is gone on with; scripts are told where the files are."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/cifar10.npz").write_text("")
    only = "--only real_tuning real_networks --out o"
    assert run(only, capsys)[0] == 0
    assert Page(tmp_path / "o/index.html").images == []
    code, printed, _ = run(f"{only} --data d", capsys)
    assert code == 0 and "real_tuning_cat256.csv.gz" in printed
    page = checked(tmp_path / "o")
    assert page.images == ["real_networks/real_networks.png"]
    (wanted,) = [line for line in page.text["code"] if "real_networks" in line]
    assert wanted == (
        "python experiments/real_networks.py --format png --data d/cifar10.npz --out real_networks"
    )
    said = (tmp_path / "o/real_networks.txt").read_text()
    assert said.startswith("drawn with --format png --data d/cifar10.npz --out")


def test_data_that_a_script_can_do_without(scripts, tmp_path, capsys):
    """It is drawn without them, once more when they have come, and then not again."""
    (tmp_path / "d").mkdir()
    only = "--only exact_errors --out o"
    plain = "python experiments/exact_errors.py --format png --out exact_errors"
    whole = plain.replace(" --out", " --eigenvalues d/cifar10.npy --out")
    for arguments in (only, f"{only} --data d"):
        assert run(arguments, capsys)[0] == 0
        page = checked(tmp_path / "o")
        assert page.images == ["exact_errors/exact_errors.png"] and plain in page.text["code"]
    (tmp_path / "d/cifar10.npy").write_text("")
    assert run("--only robust --data d --out o", capsys)[0] == 0  # asked for another
    assert plain in checked(tmp_path / "o").text["code"]
    for _ in range(2):
        assert run(f"{only} --data d", capsys)[0] == 0
        assert whole in checked(tmp_path / "o").text["code"]
    assert "--eigenvalues d/cifar10.npy" in (tmp_path / "o/exact_errors.txt").read_text()
    assert run(only, capsys)[0] == 0  # the page says how it was made
    assert whole in checked(tmp_path / "o").text["code"]
    assert (tmp_path / "o/order").read_text().split() == ["exact_errors", "robust", "exact_errors"]
    # Toys have no data.
    assert run("--only exact_errors --quick --data d --out q", capsys)[0] == 0
    assert "--eigenvalues" not in (tmp_path / "q/exact_errors.txt").read_text()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (FAILS, "failed with exit code 1: robust: not as expected: 3"),
        ("import sys; sys.exit(3)", "failed with exit code 3: it has printed nothing"),
    ],
)
def test_what_fails_is_tried_again(program, says, scripts, tmp_path, capsys):
    """It does not keep others from being made, which are not made again."""
    (scripts / "robust.py").write_text(program)
    only = "--only more_freedom robust fewer_steps --quick --format svg --out o"
    code, printed, _ = run(only, capsys)
    assert code == 1 and says in printed
    page = checked(tmp_path / "o")
    assert page.ids == ["fewer_steps", "robust", "more_freedom"]
    assert page.images == ["fewer_steps/fewer_steps.svg", "more_freedom/more_freedom.svg"]
    assert f"No figure: {says}." in page.text["p"]
    # What a killed script has left is in nobody's way.
    (tmp_path / "o/robust").mkdir(exist_ok=True)
    (tmp_path / "o/robust/robust.svg").write_text("half")
    (scripts / "robust.py").write_text(DRAWS)
    assert run(only, capsys)[0] == 0
    assert (tmp_path / "o/order").read_text().split() == ["fewer_steps", "more_freedom", "robust"]
    assert len(checked(tmp_path / "o").images) == 3
    # Nor are those left out of the page that this call does not name.
    assert run("--only steps --quick --format svg --out o", capsys)[0] == 0
    assert checked(tmp_path / "o").ids == ["steps", "fewer_steps", "robust", "more_freedom"]
    assert not (tmp_path / "o/.lock").exists()


def test_one_run_at_a_time(scripts, tmp_path, capsys):
    """Whoever is refused leaves the other run its lock."""
    only = "--only robust --quick --out o"
    assert run(only, capsys)[0] == 0
    with locked_file(tmp_path / "o/.lock") as ours:
        assert ours
        for _ in range(2):
            code, _, said = run(only, capsys)
            assert code == 2 and "another run makes its figures there" in said
    assert run(only, capsys)[0] == 0


def test_nothing_drawn(scripts, tmp_path, capsys):
    """A failure, except of toys: some only check numbers."""
    (scripts / "robust.py").write_text(NOTHING)
    code, printed, _ = run("--only robust --out o", capsys)
    assert code == 1 and "failed: it has drawn nothing" in printed
    code, printed, _ = run("--only robust --quick --out q", capsys)
    assert code == 0 and "has checked numbers, and draws nothing" in printed
    for folder in ("o", "q"):
        assert checked(tmp_path / folder).images == []


def test_a_pdf_is_a_link(scripts, tmp_path, capsys):
    assert run("--only robust --format pdf --out o", capsys)[0] == 0
    page = checked(tmp_path / "o")
    assert page.images == [] and "robust/robust.pdf" in page.links


def test_interrupted(scripts, tmp_path, capsys, monkeypatch):
    """Ctrl-C ends the script that runs; the page shows what was made until then."""
    (scripts / "robust.py").write_text("raise KeyboardInterrupt\n")
    real = subprocess.run

    def interrupted(command, **options):
        if "robust" in str(command):
            raise KeyboardInterrupt
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", interrupted)
    code, printed, _ = run("--only fewer_steps robust more_freedom --out o", capsys)
    assert code == 130 and printed.count("interrupted") == 2
    assert checked(tmp_path / "o").images == ["fewer_steps/fewer_steps.png"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--only lena --out o", "only = 'lena': allowed are transfer_functions, steps, "),
        ("--out o --only", "only: name one at least of transfer_functions, steps, "),
        ("--data nowhere --out o", "data = 'nowhere': is not a folder"),
        ("--out full", "out = 'full': already holds files; choose a new folder"),
        ("--only robust --format svg --out made", "out = 'made': its figures were made with"),
        ("--only robust --out spoilt", "file 'spoilt/figures.json': is not what this command"),
        ("--only robust --out full/file", "is not a folder"),
    ],
)
def test_bad_input(arguments, says, scripts, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt/figures.json").write_text("[]")
    assert run("--only robust --out made", capsys)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, printed, error = run(arguments, capsys)
    assert code == 2 and printed == ""
    assert error.startswith("spectralpost: ") and says in error and error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_wheel_has_no_scripts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figures, "CHECKOUT", tmp_path)
    code, _, error = run(f"--out {tmp_path}/o", capsys)
    assert code == 2 and "a checkout of the source, which a wheel does not hold" in error
    assert error.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_the_page_of_odd_names(tmp_path):
    """Names, captions and numbers of any kind are text, not markup."""
    said = {"title": "<b>", "caption": "a & b </figcaption> c", "image": "x y.png"}
    deep = {"1": {"e": [1, 2.5]}, "2": {"e": [0] * 9}}
    said["numbers"] = {"<i>": 1, "deep": deep, "list": [{"e": None}, {"e": True}]}
    one = Shown("x", "f", "python 'a b.py' > c", 3.4, said, output="")
    (tmp_path / "index.html").write_text(html_page("A & B", "<p>", [one]), "utf-8")
    page = Page(tmp_path / "index.html")
    assert page.text["figcaption"] == ["a & b </figcaption> c"]
    assert page.text["code"] == ["python 'a b.py' > c"] and page.images == ["f/x y.png"]
    # Rows of the same columns are a table; the file has what a list is too long for.
    rows = ["deep / 1", "deep / 2", "list / 1", "list / 2"]
    assert page.text["th"] == ["", "<i>", "", "", "e", *rows]
    assert page.text["td"] == ["1", "1, 2.5", "9 values", "", "True"]
    assert any(text.startswith("3 s.") for text in page.text["p"])


@pytest.fixture(scope="module", name="real")
def real_figures(tmp_path_factory):
    """A quick run of one of the scripts, with the program as a user starts it."""
    folder = tmp_path_factory.mktemp("figures") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        main(["figures", "--quick", "--only", "transfer_functions", "--out", str(folder)])
    return folder


def test_a_real_figure(real):
    page = checked(real)
    assert page.images == ["transfer_functions/transfer_functions.png"]
    assert (real / page.images[0]).read_bytes().startswith(b"\x89PNG")
    (caption,) = page.text["figcaption"]
    assert "32x32 pixels" in caption
    assert "dps, 5 / learned" in page.text["th"]
    numbers = json.loads((real / "transfer_functions/transfer_functions.json").read_text())
    loss = numbers["numbers"]["dps, 5"]["learned"]["W2^2"]
    assert f"{loss:.4g}" in page.text["td"]
    assert "learned" in (real / "transfer_functions.txt").read_text()


@pytest.mark.skipif(BROWSER is None, reason="no chromium")
def test_the_page_in_a_browser(real, tmp_path):
    """Every image is shown there with a size; the script that asks is not of the page."""
    text = (real / "index.html").read_text("utf-8")
    asks = (
        "<script>addEventListener('load', () => { document.title = [...document.images].map("
        "one => one.complete && one.naturalWidth > 100 ? 'shown' : 'broken').join(' ') + ' ' + "
        "getComputedStyle(document.querySelector('section')).borderTopStyle; })</script>"
    )
    (real / "asked.html").write_text(text.replace("</head>", f"{asks}</head>"), "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [*command, (real / "asked.html").as_uri()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"<title>(.*?)</title>", done.stdout) == ["shown solid"]
