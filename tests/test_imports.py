"""Imports point one way: reading order is import order."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spectralpost

FOLDER = Path(spectralpost.__file__).parent

# A module may import only from those before it.
READING_ORDER = (
    "errors",
    "files",
    "compiled",
    "kept_jit",
    "plain_json",
    "signatures",
    "choices",
    "options",
    "sweep_options",
    "config_file",
    "state_dict",
    "torch_call",
    "algebra",
    "noise",
    "noise_grid",
    "calibration",
    "pixels",
    "images",
    "denoiser_checks",
    "degradations",
    "spectra",
    "prior_checks",
    "prior",
    "prior_file",
    "problem_checks",
    "problem",
    "covariance",
    "splitting",
    "inpainting",
    "merging_blocks",
    "merging",
    "chunks",
    "samplers",
    "affine",
    "sampler_checks",
    "denoiser_use",
    "transfer",
    "literal_form",
    "bures",
    "metrics",
    "objectives",
    "learning",
    "designers",
    "denoisers",
    "restoration",
    "simulation",
    "polishing",
    "borders",
    "schedule",
    "schedule_checks",
    "schedule_file",
    "gallery",
    "exports",
    "sweeps",
    "figures",
    "commands",
    "cli",
    "__main__",
)
# The only import of this package that points the other way, inside of a function.
LAZY = {("samplers", "literal_form")}
# Files of a folder are interchangeable and do not know each other, but for its `__init__` and for
# what is listed here, in reading order, as shared by the others.
SHARED = {
    "commands": (
        "option_files",
        "given_schedule",
        "inputs",
        "going_on",
        "calibration",
        "console",
        "polish",
        "photograph",
    ),
    "degradations": ("base", "circular", "dense", "downsample", "mosaic"),
    "samplers": ("base", "steps"),
    "designers": ("network",),
    "denoisers": ("gaussian", "unet", "checkpoints"),
    "figures": ("base",),
    "exports": ("base", "loop", "operators", "solving", "diffpir"),
}
# Folders that are one thing with one door have a reading order of their own.
ORDERED = {
    "gallery": ("entries", "judged"),
    "sweeps": (
        "priors",
        "axes",
        "grid",
        "case",
        "batch",
        "dataset",
        "reading",
        "finding",
        "summary",
        "views",
        "running",
        "planning",
    ),
    "learning": (
        "guidance",
        "jacobian",
        "gradient",
        "parameters",
        "loss",
        "levenberg_marquardt",
        "lanes",
        "search",
        "zoom",
        "baselines",
        "generations",
        "preparing",
        "halving",
        "searching",
        "learn",
        "for_network",
        "continuing",
        "on_grid",
    ),
}


# What scripts need of files inside of folders: `docs/add-a-sampler.md` names the first two; a
# network is named as for `design`; images are put into coordinates of tiles; a benchmark times
# parts of a sweep.
INNER = {"samplers.base", "samplers.steps"}
INNER_OF = {
    "inpainting": {"degradations.circular", "degradations.downsample"},
    "real_networks": {"commands.inputs"},
    "sweep_throughput": {"sweeps.batch", "sweeps.case", "sweeps.grid", "sweeps.running"},
}
SCRIPTS = sorted(
    path
    for folder in ("experiments", "benchmarks")
    for path in (Path(__file__).parents[1] / folder).rglob("*.py")
)


def imported_modules(source: str, depth: int) -> set[str]:
    """Names of the modules of this package that a file imports, anywhere in it.

    depth  1 for a file of the package, 2 for one in a folder of it: the dots that reach the top
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head, _, rest = alias.name.partition(".")
                if head == "spectralpost":
                    found.add(rest.split(".")[0] or "__init__")
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == depth or (node.level == 0 and module.split(".")[0] == "spectralpost"):
                path = module if node.level else module.partition(".")[2]
                names = [path.split(".")[0]] if path else [alias.name for alias in node.names]
                found.update(names)
            elif 0 < node.level < depth:  # a sibling in the folder
                found.update(["." + (module or alias.name) for alias in node.names])
            else:
                assert node.level <= depth, f"level {node.level} leaves the package"
    return found


def files() -> list[Path]:
    return sorted(path for path in FOLDER.rglob("*.py") if path != FOLDER / "__init__.py")


def position(path: Path) -> str:
    """The name under which the reading order lists a file: its own, or its folder's."""
    return path.relative_to(FOLDER).parts[0].removesuffix(".py")


def test_every_module_has_a_place():
    """A new module must be given one; a removed one must not linger in the list."""
    assert {position(path) for path in files()} == set(READING_ORDER)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(FOLDER)))
def test_imports_point_one_way(path):
    depth = len(path.relative_to(FOLDER).parts)
    me = position(path)
    allowed = set(READING_ORDER[: READING_ORDER.index(me)])
    allowed |= {other for module, other in LAZY if module == me}
    found = imported_modules(path.read_text(), depth)
    siblings = {name for name in found if name.startswith(".")}
    assert found - siblings <= allowed
    if path.name == "__init__.py":
        return
    order = ORDERED.get(me, SHARED.get(me, ()))
    before = order[: order.index(path.stem)] if path.stem in order else order
    assert siblings <= {f".{name}" for name in before}


def test_a_module_can_be_read_in_one_sitting():
    """350 lines at most."""
    long = {path.name: len(path.read_text().splitlines()) for path in FOLDER.rglob("*.py")}
    assert not {name: lines for name, lines in long.items() if lines > 350}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_use_public_names(path):
    """What `spectralpost` exports comes from there, the rest from a module or a folder's door."""
    inner = INNER | INNER_OF.get(path.stem, set())
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        head, _, module = node.module.partition(".")
        if head == "spectralpost" and module:
            assert "." not in module or module in inner
            assert not {alias.name for alias in node.names} & set(spectralpost.__all__)


def test_torch_is_imported_by_those_who_use_it():
    program = (
        "import sys, spectralpost\n"
        "for name in spectralpost.__all__: getattr(spectralpost, name)\n"
        "import spectralpost.commands.inputs\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_check_sees_every_form_of_import():
    """Otherwise a wrong import could hide behind another spelling, or inside of a function."""
    source = (
        "from .prior import Prior\nfrom . import noise\nimport spectralpost.step\n"
        "from spectralpost.transfer import compose\nfrom spectralpost import problem\n"
        "def f():\n    from .samplers.dps import dps\n    import numpy\n"
    )
    names = {"prior", "noise", "step", "transfer", "problem", "samplers"}
    assert imported_modules(source, 1) == names
    assert imported_modules("from ..step import Sampler\nfrom .dps import dps", 2) == {
        "step",
        ".dps",
    }
