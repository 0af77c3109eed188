"""Whole programs from disk: the same results without tracing, and never those of other sources."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spectralpost as sp
from spectralpost import compiled, kept_jit
from spectralpost.compiled import SUFFIX, drop_compiled_programs, keep_compiled_programs
from spectralpost.metrics import wasserstein2

pytestmark = pytest.mark.usefixtures("quick")
traced: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **about: (
        traced.append(about.get("fun_name", ""))
        if event == "/jax/core/compile/jaxpr_trace_duration"
        else None
    )
)


@pytest.fixture(autouse=True)
def folder(tmp_path):
    """Of programs, new in each test."""
    before = jax.config.jax_compilation_cache_dir
    drop_compiled_programs()
    keep_compiled_programs(tmp_path / "programs")
    yield tmp_path / "programs"
    keep_compiled_programs(before)


@pytest.fixture
def problem():
    return sp.image_problem(sp.power_law((8,)), sp.gaussian_blur((8,), 1.0), 0.1)


DPS = sp.SAMPLERS["dps"]()
LEVELS = sp.vp_linear(3)


def kept(folder, name):
    """Files of its executables, not those that say which one is of which sources."""
    return sorted(file for file in folder.glob(f"*.{name}-*{SUFFIX}") if "@" not in file.name)


def loss(problem, sampler=DPS, objective=wasserstein2):
    guidance = {"zeta": jnp.full(3, 0.5), "eta": jnp.ones(3)}
    return sp.evaluate(sampler, problem, LEVELS, guidance, objective)


def traces_of(name, call):
    """How often the function of that name is traced by the call in a process that is as new, and
    what it returns."""
    drop_compiled_programs()
    before = len(traced)
    found = call()
    return traced[before:].count(name), np.asarray(found)


def test_the_next_process_traces_nothing(folder, problem):
    first, again = (traces_of("_evaluate", partial(loss, problem)) for _ in range(2))
    assert first == (1, again[1]) and again[0] == 0
    assert len(kept(folder, "_evaluate")) == 1


def test_a_search_in_two_processes(tmp_path):
    """A program with LAPACK's functions, which JAX would have told XLA of while lowering it."""
    script = """
import sys
import jax
import spectralpost as sp
traced = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **about: traced.append(about.get("fun_name"))
)
jax.config.update("jax_disable_most_optimizations", True)
sp.keep_compiled_programs(sys.argv[1])
problem = sp.image_problem(sp.power_law((8,)), sp.gaussian_blur((8,), 1.0), 0.1)
search = sp.Search(starts=2, max_iterations=20, explore=False)
found = sp.learn(sp.SAMPLERS["dps"](), problem, sp.vp_linear(3), search=search)
print(found.loss, *(name in traced for name in ("advance_each", "jit(advance_each)")))
"""
    said = []
    for _ in range(2):
        command = [sys.executable, "-c", script, tmp_path / "of two"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert said[0][0] == said[1][0]
    assert said[0][1:] == ["True", "True"] and said[1][1:] == ["False", "False"]


def test_functions_of_others_are_not_kept(folder, problem):
    """Their source may be another one in the next process."""

    def objective(problem, transfer):
        return 2 * wasserstein2(problem, transfer)

    def update(denoise, measurement, step):
        return 0 * DPS.update(denoise, measurement, step)

    plain = float(loss(problem))
    assert float(loss(problem, objective=objective)) == 2 * plain
    # By its name, as a function of a module: `pickle` takes it, and its module is not ours.
    assert float(loss(problem, objective=of_this_file)) == 3 * plain
    assert float(loss(problem, sampler=replace(DPS, update=update))) != plain
    assert len(kept(folder, "_evaluate")) == 1


def of_this_file(problem, transfer):
    return 3 * wasserstein2(problem, transfer)


def test_in_other_programs_it_is_jit(folder, problem):
    plain = float(loss(problem))
    noises = jnp.asarray([0.1, 0.2])
    of_noise = lambda sigma_y: loss(problem._replace(sigma_y=sigma_y))  # noqa: E731
    many = jax.vmap(of_noise)(noises)
    assert float(many[0]) == pytest.approx(plain, rel=1e-12)
    step = 1e-5
    slope = jax.jit(jax.grad(of_noise))(noises[0])
    difference = (of_noise(noises[0] + step) - of_noise(noises[0] - step)) / (2 * step)
    assert float(slope) == pytest.approx(float(difference), rel=1e-6)
    assert len(kept(folder, "_evaluate")) == 1


@pytest.mark.parametrize(
    "change", ["precision", "setting", "another version", "sampler", "steps", "modes"]
)
def test_what_a_program_depends_on(change, folder, problem, monkeypatch):
    loss(problem)
    drop_compiled_programs()
    if change == "precision":
        single = lambda leaf: np.asarray(leaf, np.float32)  # noqa: E731
        guidance = {"zeta": np.full(3, 0.5, np.float32), "eta": np.ones(3, np.float32)}
        sp.evaluate(DPS, jax.tree.map(single, problem), jax.tree.map(single, LEVELS), guidance)
    elif change == "setting":
        with jax.default_matmul_precision("highest"):
            loss(problem)
    elif change == "another version":
        monkeypatch.setattr(kept_jit, "_surroundings", lambda: b"of another version")
        loss(problem)
    elif change == "sampler":
        loss(problem, sampler=sp.SAMPLERS["dps"](scale=0.5))
    elif change == "steps":
        levels = sp.vp_linear(4)
        sp.evaluate(DPS, problem, levels, {"zeta": jnp.full(4, 0.5), "eta": jnp.ones(4)})
    else:
        loss(sp.image_problem(sp.power_law((10,)), sp.gaussian_blur((10,), 1.0), 0.1))
    assert len(kept(folder, "_evaluate")) == 2


def test_other_sources_of_the_same_program(folder, problem, monkeypatch):
    """It is traced, compared, and found: once."""
    found = loss(problem)
    monkeypatch.setattr(kept_jit, "_sources", lambda: b"with another comment")
    monkeypatch.delattr(jax.stages.Lowered, "compile")
    assert traces_of("_evaluate", partial(loss, problem)) == (1, found)
    assert traces_of("_evaluate", partial(loss, problem)) == (0, found)
    assert len(kept(folder, "_evaluate")) == 1


class One(NamedTuple):
    a: jax.Array | int


class Other(NamedTuple):
    a: jax.Array | int


def test_programs_that_differ_in_what_they_take(folder, monkeypatch):
    """Or in what they give back: nothing is taken for its like."""
    store, numbers = compiled.store(), (np.ones(()), np.asarray(2.0))
    assert store is not None
    functions = [
        lambda a, b: a + 1,
        lambda a, b: b + 1,
        lambda a, b: (a + 1, a),
        lambda a, b: {"a": a + 1},
        lambda a, b: {"b": a + 1},
        lambda a, b: One(a + 1),
        lambda a, b: Other(a + 1),
        lambda *numbers: numbers[0] + 1,  # as the first
    ]
    expected = [2, 3, (2, 1), {"a": 2}, {"b": 2}, One(2), Other(2), 2]
    for (number, function), value in zip(enumerate(functions), expected, strict=True):
        traced = jax.jit(function, keep_unused=True).trace(*numbers)
        # Of one name, as though the sources had changed.
        monkeypatch.setattr(kept_jit, "_sources", str(number).encode)
        for trace in (lambda it=traced: it, pytest.fail):
            found = kept_jit._program(store, "a.taking-1", trace)(*numbers)
            assert found == value
            assert isinstance(value, int) or type(found) is type(value)
    assert len(kept(folder, "taking")) == len(functions) - 1


def test_equal_things_have_one_name():
    """Whether two names are one object or two differs from process to process."""
    one = "".join(["a", "b"])
    names = [
        kept_jit._name("f", {"free": free}, jax.tree.structure(1), ("float64[]",), ())
        for free in ((one, one), ("".join(["a", "b"]), "".join(["a", "b"])))
    ]
    assert names[0] is not None and names[0] == names[1]


def test_a_broken_program_is_compiled_again(folder, problem):
    """One that is whole by its checksum, but nothing that JAX can load."""
    found = loss(problem)
    (path,) = kept(folder, "_evaluate")
    store = compiled.store()
    assert store is not None
    store.put(path.name.removesuffix(SUFFIX), b"no program")
    assert traces_of("_evaluate", partial(loss, problem)) == (1, found)
    assert traces_of("_evaluate", partial(loss, problem)) == (0, found)


def test_calls_of_python_are_not_kept(folder):
    """Their address is one of this process."""

    def program(x):
        return jax.pure_callback(lambda x: np.asarray(x) + 1, jax.ShapeDtypeStruct((), x.dtype), x)

    store = compiled.store()
    assert store is not None
    traced = jax.jit(program).trace(np.ones(()))
    assert kept_jit._program(store, "a.calling-1", lambda: traced)(np.ones(())) == 2
    assert kept(folder, "calling") == []
    alike = jax.jit(lambda x: x + 1).trace(np.ones(()))
    assert kept_jit._program(store, "a.adding-1", lambda: alike)(np.ones(())) == 2
    assert len(kept(folder, "adding")) == 1


def test_nothing_is_kept_without_a_folder(folder, problem):
    keep_compiled_programs("")
    assert compiled.store() is None
    found = traces_of("_evaluate", partial(loss, problem))
    assert found == traces_of("_evaluate", partial(loss, problem))
    assert found[0] == 1 and not kept(folder, "_evaluate")
