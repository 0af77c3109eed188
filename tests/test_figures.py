"""Figures: everything is drawn and labelled. Whether they are clear is for eyes to judge."""

import json
import re
from pathlib import Path

import dense
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import spectralpost as sp
from spectralpost.affine import Transfer
from spectralpost.degradations import gaussian_blur
from spectralpost.degradations.circular import hartley_matrix
from spectralpost.errors import InputError
from spectralpost.figures import (
    COLOURS,
    LINES,
    Panel,
    compare_figure,
    legend_above,
    new_figure,
    outside_legend,
    radial_average,
    report_figure,
    restored_figure,
    save_figure,
    save_with_caption,
)
from spectralpost.images import load_image
from spectralpost.learning import LearnResult
from spectralpost.noise import rectified_flow, vp_linear
from spectralpost.prior import frequency, power_law
from spectralpost.problem import ideal_posterior, image_problem
from spectralpost.samplers.diffpir import diffpir
from spectralpost.samplers.dps import dps
from spectralpost.transfer import sampler_transfer

SHAPE = (12, 16)
PROBLEM = image_problem(power_law(SHAPE), gaussian_blur(SHAPE, 1.0), 0.1)
MODES = frequency(SHAPE).ravel()
STEPS = 4

pytestmark = pytest.mark.usefixtures("quick")


def result_of(heuristic: dict, free: tuple[str, ...]) -> LearnResult:
    """As `learn` returns it, with made-up numbers."""
    twice = {name: 2 * weights for name, weights in heuristic.items()}
    return LearnResult(
        guidance={name: weights / 2 for name, weights in heuristic.items()},
        levels=vp_linear(len(next(iter(heuristic.values())))),
        band_knots=None,
        free=free,
        loss=0.01,
        losses=np.asarray([0.01]),
        baselines={"heuristic": 0.3, "tuned_constant": 0.1, "exact": 0.005},
        baseline_guidance={"heuristic": heuristic, "tuned_constant": twice, "exact": {}},
        history=np.geomspace(0.1, 0.01, 40),
        explored=np.geomspace(0.2, 0.02, 10),
        final_losses=np.asarray([0.01, 0.02]),
        converged=True,
        interrupted=False,
        kept={},
    )


def legend_of(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.fixture(scope="module")
def report():
    levels = vp_linear(STEPS)
    heuristic = dps().heuristic(PROBLEM, levels)
    transfer = sampler_transfer(dps(), PROBLEM, levels, heuristic)
    transfers = dict.fromkeys(COLOURS, transfer)
    result = result_of(heuristic, ("zeta",))
    return report_figure(PROBLEM, MODES, levels, result, transfers, "a title")


def test_report_is_labelled(report):
    assert report.get_suptitle() == "a title"
    assert len(report.axes) == 4
    for axes in report.axes:
        assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
        assert len(legend_of(axes)) >= 3


def test_report_shows_every_schedule(report):
    schedule, history, gain, spread = report.axes
    of_constant = "tuned constant of the official form"  # it varies, as norms do
    assert legend_of(schedule) == ["published default", of_constant, "learned"]
    assert set(COLOURS) - {"learned"} < set(legend_of(history))
    for axes in (gain, spread):
        assert legend_of(axes) == ["true posterior", *COLOURS]
    explored, refined = (history.lines[i].get_ydata() for i in (0, 1))
    np.testing.assert_allclose(explored[[0, -1]], [0.2, 0.02])
    np.testing.assert_allclose(refined[[0, -1]], [0.1, 0.01])
    assert history.lines[2].get_label() == "learned, without prices"
    learned = schedule.lines[2].get_ydata()
    np.testing.assert_allclose(learned, dps().heuristic(PROBLEM, vp_linear(STEPS))["zeta"] / 2)


def test_the_truth_is_drawn_in_black_and_right(report):
    """The gain of the true posterior, h^2 lambda / (h^2 lambda + sigma_y^2), ring by ring."""
    line = report.axes[2].lines[0]
    assert line.get_color() == "black"
    h, spectrum = np.asarray(PROBLEM.response), np.asarray(PROBLEM.spectrum)
    gain = h**2 * spectrum / (h**2 * spectrum + 0.1**2)
    f, expected = radial_average(frequency(SHAPE).ravel(), gain)
    np.testing.assert_allclose(line.get_xdata(), f)
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)


def test_a_constant_component_up_to_rounding_is_left_out(report):
    """As that of a block's eigenvector is: it would take all of a logarithmic axis."""
    levels, rounded = vp_linear(STEPS), np.where(MODES == 0, 1e-17, MODES)
    heuristic = dps().heuristic(PROBLEM, levels)
    transfers = {"learned": sampler_transfer(dps(), PROBLEM, levels, heuristic)}
    result = result_of(heuristic, ("zeta",))
    figure = report_figure(PROBLEM, rounded, levels, result, transfers, "")
    for one, other in zip(figure.axes[2:], report.axes[2:], strict=True):
        shown, wanted = (axes.lines[0].get_xydata() for axes in (one, other))
        np.testing.assert_array_equal(shown, wanted)


def test_blocks_are_shown_by_frequency():
    """Of decimation the true posterior's gain from x_0 and spread, along the frequencies that are
    mixed: by dense algebra, whose Hartley functions these are where there is no blur."""
    shape, n = (6, 6), 36
    prior, degradation = sp.power_law(shape), sp.downsample(shape, 2, "none")
    problem, levels = sp.image_problem(prior, degradation, 0.1), vp_linear(STEPS)
    transfer = sampler_transfer(dps(), problem, levels, dps().heuristic(problem, levels))
    result = result_of(dps().heuristic(problem, levels), ("zeta",))
    f = sp.mode_frequency(prior, degradation)
    figure = report_figure(problem, f, levels, result, {"learned": transfer}, "")
    H = np.eye(n).reshape(n, *shape)[:, ::2, ::2].reshape(n, -1).T
    K, P = dense.posterior(H, np.zeros(n), dense.stationary(prior.spectrum), 0.1)
    along = hartley_matrix(shape)
    for axes, values in (
        (figure.axes[2], np.diagonal(along.T @ K @ H @ along)),
        (figure.axes[3], np.sqrt(np.diagonal(along.T @ P @ along))),
    ):
        line = axes.lines[0]
        rings, expected = radial_average(frequency(shape).ravel(), values)
        np.testing.assert_allclose(line.get_xdata(), rings)
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-9)


def test_lines_can_be_told_apart_without_colour():
    assert set(COLOURS) == set(LINES)
    assert len(set(COLOURS.values())) == len(set(LINES.values())) == len(COLOURS)


def test_report_of_several_weights_from_pure_noise():
    """The legend has a line for each schedule, and a marker for each weight; a weight of 0 is at
    the bottom, which the axis says; a flow starts at a log-SNR of -inf."""
    levels = rectified_flow(STEPS)
    heuristic = diffpir().heuristic(PROBLEM, levels)
    for zeta, says in ((heuristic["zeta"], False), (0 * heuristic["zeta"], True)):
        guidance = heuristic | {"zeta": zeta}
        transfer = sampler_transfer(diffpir(), PROBLEM, levels, guidance)
        result = result_of(guidance, ("lambda_", "zeta"))
        figure = report_figure(PROBLEM, MODES, levels, result, {"learned": transfer}, "")
        schedule = figure.axes[0]
        assert {"learned", "zeta", "lambda_"} <= set(legend_of(schedule))
        assert ("0: at the bottom" in schedule.get_ylabel()) == says
        assert schedule.get_ylim()[0] > 0.01 * float(min(heuristic["zeta"]))
        figure.draw_without_rendering()


def test_report_of_levels_alone():
    """No weight was learned: no curve, and no legend."""
    levels = vp_linear(STEPS)
    guidance = diffpir().heuristic(PROBLEM, levels)
    transfer = sampler_transfer(diffpir(), PROBLEM, levels, guidance)
    result = result_of(guidance, ())
    figure = report_figure(PROBLEM, MODES, levels, result, {"learned": transfer}, "")
    assert figure.axes[0].get_legend() is None and not figure.axes[0].lines


def test_report_of_an_unstable_sampler(tmp_path):
    """Gains and losses that overflow: the figure is drawn, and its limits show the rest."""
    levels = vp_linear(STEPS)
    heuristic = dps().heuristic(PROBLEM, levels)
    ideal = ideal_posterior(PROBLEM)
    huge = Transfer(*(jnp.full_like(ideal.gain, 1e200) for _ in range(4)))
    good = Transfer(jnp.zeros_like(ideal.gain), ideal.gain, ideal.cov, jnp.zeros_like(ideal.gain))
    result = result_of(heuristic, ("zeta",))
    result.baselines["heuristic"] = np.inf
    transfers = {"published default": huge, "learned": good}
    figure = report_figure(PROBLEM, MODES, levels, result, transfers, "")
    low, high = figure.axes[2].get_ylim()
    assert -0.1 < low < high < 3
    save_figure(figure, tmp_path / "a.png")


def test_restored_figure(tmp_path):
    """Grey and colour, rows of different lengths; 0 is mid grey in the range [-1, 1]."""
    grey, colour = np.zeros((1, 6, 8)), np.zeros((3, 6, 8))
    rows = [[Panel("a", grey, "1 dB"), Panel("b", colour, "2 dB"), Panel("c", grey)]]
    rows.append([Panel("d", colour)])
    figure = restored_figure(rows, "a title")
    assert figure.get_suptitle() == "a title" and len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", "d", "", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["1 dB", "2 dB", "", "", "", ""]
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 1, 0, 0]
    assert figure.axes[0].images[0].get_array().shape == (6, 8)
    assert figure.axes[1].images[0].get_array().shape == (6, 8, 3)
    for axes in figure.axes[:4]:
        assert np.all(axes.images[0].get_array() == 128)
        assert len(axes.get_xticks()) == 0
    save_figure(figure, tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").shape[0] == 3


def test_restored_figure_in_another_pixel_range():
    figure = restored_figure([[Panel("a", np.full((1, 2, 2), 3.0))]], "", (1.0, 3.0))
    assert np.all(figure.axes[0].images[0].get_array() == 255)


def test_figure_that_cannot_be_written(tmp_path):
    figure = restored_figure([[Panel("a", np.zeros((1, 2, 2)))]], "")
    with pytest.raises(InputError, match=r"missing/a\.png.*No such file"):
        save_figure(figure, tmp_path / "missing" / "a.png")


# ------------------------------------------------------------------------------------------- rings


def test_colours_stand_in_one_place():
    """Figures that are shown side by side have one palette."""
    root = Path(sp.__file__).parent
    files = [*root.rglob("*.py"), *(Path(__file__).parents[1] / "experiments").glob("*.py")]
    colour = re.compile(r"#(?:[0-9a-f]{6}|[0-9a-f]{3})\b", re.IGNORECASE)
    found = {path.name for path in files if colour.search(path.read_text("utf-8"))}
    assert found == {"base.py"}
    drawing = [path for path in files if "matplotlib.figure import Figure" in path.read_text()]
    assert len(drawing) > 10
    own = [path.name for path in drawing if re.search(r"\bFigure\(", path.read_text("utf-8"))]
    assert own == ["base.py"]


def test_an_outside_legend_has_each_label_once():
    """Of panels of which none has all labels, beside them."""
    figure = new_figure((6, 3))
    for axes, names in zip(figure.subplots(1, 2), ("ab", "bc"), strict=True):
        for name in names:
            axes.plot([0, 1], [0, 1], label=name)
        axes.plot([0, 1], [1, 0])
    outside_legend(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


def test_a_legend_above_hides_nothing():
    figure = new_figure((4, 3))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label="a")
    legend_above(axes, "of what")
    figure.draw_without_rendering()
    legend, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert axes.get_legend().get_title().get_text() == "of what"
    assert inside.y1 <= legend.y0 + 1 and legend.y1 <= figure.bbox.y1 + 1  # pixels


def test_frequency():
    """Cycles per pixel, in the order of the modes: 0 first, at most sqrt(1/2)."""
    f = frequency((4, 6)).ravel()
    assert f.shape == (24,)
    np.testing.assert_allclose(f[:4], [0, 1 / 6, 2 / 6, 3 / 6])
    np.testing.assert_allclose(f[6], 1 / 4)
    np.testing.assert_allclose(f.max(), np.sqrt(0.5))


@pytest.mark.parametrize("shape", [(2, 2), (16, 16), (33, 20)])
def test_radial_average_of_a_constant(shape):
    """The same constant on rings of rising frequency; the constant component is left out."""
    f = frequency(shape).ravel()
    values = np.full(f.shape, 0.3)
    values[0] = 1e9
    centre, mean = radial_average(f, values)
    np.testing.assert_allclose(mean, 0.3, rtol=1e-14)
    assert np.all(np.diff(centre) > 0)
    assert centre.min() >= f[f > 0].min() and centre.max() <= f.max() * (1 + 1e-12)


def test_radial_average_keeps_the_sum():
    """Rings hold every mode but the constant one, once: with one ring, the mean of all."""
    f = frequency((8, 8)).ravel()
    values = np.random.default_rng(0).normal(size=64)
    _, mean = radial_average(f, values, num_bins=1)
    np.testing.assert_allclose(mean, [values[1:].mean()], rtol=1e-12)
    # A function of frequency alone is returned as it is, where rings hold one frequency each.
    centre, mean = radial_average(f, f, num_bins=1000)
    np.testing.assert_allclose(mean, centre)


def test_compare_figure():
    """A panel a number of steps, a line a sampler, best on top; an unstable loss stays inside."""
    schedules = ("published default", "tuned constant", "learned")

    def losses(*values):
        return dict(zip(schedules, values, strict=True))

    many = {
        10: {"dps": losses(0.3, 0.2, 0.1), "pigdm": losses(1e30, 0.3, 0.2)},
        20: {"dps": losses(0.2, 0.1, 0.05), "pigdm": losses(0.1, 0.03, 0.02)},
    }
    references = {steps: {"exact score, DDIM(0)": 0.01} for steps in many}
    figure = compare_figure(many, references, "a title")
    assert [axes.get_title() for axes in figure.axes] == ["10 steps", "20 steps"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["dps", "pigdm"]  # from below, by the last panel
    for axes in figure.axes:
        drawn = {line.get_label(): line.get_xdata() for line in axes.get_lines()}
        assert set(drawn) == {*schedules, *references[10]}
    assert figure.axes[0].get_xlim()[1] == 1e3 * 0.2  # of what is learned the worst
    outside = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert outside == [["1e+30 \u2192"], []]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*schedules, "exact score, DDIM(0)"]
    assert figure.get_suptitle() == "a title"
    many[10]["pigdm"] = losses(np.nan, 0.3, np.inf)  # diverges
    figure = compare_figure(many, references, "")
    assert len(figure.axes[0].texts) == 2


def test_weights_that_hardly_matter_are_hollow():
    """Those, and no others, are drawn again in white; the legend says what that means."""
    levels = vp_linear(STEPS)
    heuristic = dps().heuristic(PROBLEM, levels)
    result = result_of(heuristic, ("zeta",))
    transfers = {"learned": sampler_transfer(dps(), PROBLEM, levels, result.guidance)}
    sensitivity = {"zeta": np.asarray([1e-6, 0.5, 1e-4, 0.2])}
    figure = report_figure(PROBLEM, MODES, levels, result, transfers, "", sensitivity=sensitivity)
    schedule = figure.axes[0]
    assert "hollow" in legend_of(schedule)[-1]
    white, of_legend = [line for line in schedule.lines if line.get_markerfacecolor() == "white"]
    assert not len(of_legend.get_xdata())
    np.testing.assert_allclose(white.get_ydata(), np.asarray(result.guidance["zeta"])[[0, 2]])


def test_a_captioned_figure_is_only_overwritten_if_asked(tmp_path):
    said = {"title": "", "caption": "", "format": "svg"}

    def save(number: int, **options) -> None:
        save_with_caption(Figure(), tmp_path, "one", numbers={"n": number}, **said, **options)

    save(1)
    with pytest.raises(InputError, match=r"one\.svg': exists"):
        save(2)
    assert json.loads((tmp_path / "one.json").read_text())["numbers"] == {"n": 1}
    save(3, overwrite=True)
    assert json.loads((tmp_path / "one.json").read_text())["numbers"] == {"n": 3}
