"The look of all figures: the same bytes, readable in grey, and drawn from the right numbers."

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtg_r1.core.plots import (
    ROLES,
    SERIES,
    draw_cases,
    draw_curves,
    draw_histogram,
    draw_landscapes,
    draw_log,
    draw_recall,
    draw_timelines,
    looks_of,
    moving_mean,
    save_figure,
    style,
)
from vtg_r1.core.spans import tiou

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def closed():
    "No figure outlives its test."
    plt.switch_backend("Agg")
    yield
    plt.close("all")


FIGURES = """
import sys
from vtg_r1.core.plots import draw_timelines, draw_recall, draw_landscapes, save_figure
rows = [dict(query="the red circle", duration=16.0, spans={"truth": [[1, 4]], "before RL": [], "after RL": [[1, 5]], "teacher": [[0, 4]]})]
save_figure(draw_timelines(rows), sys.argv[1] + "/timelines")
save_figure(draw_recall({"before": [0.1, 0.5], "after": [0.9, 1.0]}), sys.argv[1] + "/recall")
save_figure(draw_landscapes({"length": lambda s, e: (e - s) / 9}, [1, 4], 9.0), sys.argv[1] + "/landscape")
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    for name, seed in (("a", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", FIGURES, str(tmp_path / name)], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(f"{n}.{e}" for n in ("landscape", "recall", "timelines") for e in ("png", "svg"))
    assert [f for f in files if (tmp_path / "a" / f).read_bytes() != (tmp_path / "b" / f).read_bytes()] == []


def test_a_dot_in_the_name_of_a_figure_stays(tmp_path):
    assert save_figure(plt.figure(), tmp_path / "R1@0.5") == tmp_path / "R1@0.5.png"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["R1@0.5.png", "R1@0.5.svg"]


def lightness(colour):
    "L* of CIELAB."
    from matplotlib.colors import to_rgb

    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(linear) - 16


def test_roles_differ_in_grey():
    assert lightness("red") == pytest.approx(53.24, abs=0.05)
    light = sorted(lightness(look.colour) for look in ROLES.values())
    assert min(np.diff(light)) > 10 and len({look.hatch for look in ROLES.values()}) == len({str(look.line) for look in ROLES.values()}) == len(ROLES)
    assert len({str(look.line) for look in SERIES}) == len({look.marker for look in SERIES}) == len(SERIES)


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (["truth"], {"truth": "truth"}),
        (["Before RL", "after, steps 81–100"], {"Before RL": "before", "after, steps 81–100": "after"}),
        (["aftermath", "after RL", ""], {"after RL": "after"}),
    ],
)
def test_a_role_keeps_its_look(names, roles):
    looks = looks_of(names)
    assert all(looks[name] is ROLES[role] for name, role in roles.items())
    assert len(set(looks.values())) == len(names) and set(looks) == set(names)


def test_more_names_than_looks_begin_again():
    assert looks_of([str(i) for i in range(9)])["6"] is SERIES[0]


def test_style_leaves_everything_as_it_was():
    before = dict(plt.rcParams)
    with pytest.raises(RuntimeError), style():
        assert plt.rcParams["font.size"] == 9 and plt.rcParams["svg.hashsalt"] == "vtg_r1"
        raise RuntimeError
    draw_histogram({"a": [0.1]}, "tIoU")
    assert dict(plt.rcParams) == before


@given(st.lists(st.floats(-1e6, 1e6), max_size=40), st.integers(1, 12))
def test_moving_mean_is_over_the_last_values(values, window):
    naive = [np.mean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]
    assert np.allclose(moving_mean(values, window), naive, atol=1e-6)


def test_timelines_draw_what_they_are_given():
    rows = [
        {"query": "a", "duration": 10.0, "spans": {"truth": [[2, 5], [7, 8]], "model": None}},
        {"query": "b", "duration": 20.0, "spans": {"truth": [[0, 20]], "model": [[9, 3]]}},
        {"query": "c", "duration": 20.0, "spans": {"truth": [], "model": None}},
    ]
    first, second, absent = draw_timelines(rows).axes
    assert [t.get_text().strip() for t in absent.texts] == ["not in the video", "no span"], (
        "[] says that the event is absent; None: no span could be read"
    )
    bars = [[(v.min(), v.max()) for v in (p.vertices[:, 0] for p in c.get_paths())] for c in first.collections]
    assert bars == [[(2, 5), (7, 8)], []] and [t.get_text().strip() for t in first.texts] == ["no span"]
    assert [t.get_text().strip() for t in second.texts] == ["no span"], "a span that ends before it begins is no span"
    assert first.get_xlim() == second.get_xlim() == (0, 20)


def test_a_video_of_one_frame_shows_the_spans_beside_it():
    case = {
        "title": "one",
        "pictures": np.zeros((1, 4, 6, 3), np.uint8),
        "times": [2.0],
        "spans": {"truth": [[0.0, 9.0]], "model": [[12.0, 14.0]], "none": []},
    }
    strip, line = draw_cases([case]).axes
    assert strip.get_xlim() == line.get_xlim() == (0, 14) and strip.images[0].get_extent() == [1.5, 2.5, 0, 1]
    strip, line = draw_cases([{**case, "spans": {"truth": []}}]).axes
    assert strip.get_xlim() == line.get_xlim() == (1.5, 2.5)


def test_recall_is_the_published_metric_and_its_area_is_miou():
    ious = np.random.default_rng(0).uniform(0, 1, 500)
    ious[:50] = 0.5
    line, marks = draw_recall({"model": ious}).axes[0].lines
    at, recall = line.get_data()
    assert dict(zip(at.round(4), recall))[0.5] == pytest.approx(100 * np.mean(ious >= 0.5))
    assert marks.get_ydata() == pytest.approx([100 * np.mean(ious >= m) for m in (0.3, 0.5, 0.7)])
    assert np.mean(recall) == pytest.approx(100 * ious.mean(), abs=0.3)


@pytest.mark.parametrize(("seeds", "t"), [(2, None), (3, 4.3027), (5, 2.7764)])
def test_the_band_is_the_t_interval(seeds, t):
    values = [0.1 * s for s in range(seeds)]
    rows = [{"arm": "r1", "seed": s, "step": i, "curve": "reward", "value": v} for s, v in enumerate(values) for i in range(3)]
    bands = draw_curves(rows, {"reward": "reward"}).axes[0].collections
    if t is None:
        assert len(bands) == 0
    else:
        y = bands[0].get_paths()[0].vertices[:, 1]
        assert y.max() - y.min() == pytest.approx(2 * t * np.std(values, ddof=1) / np.sqrt(seeds), rel=1e-4)


def test_a_seed_that_ends_early_has_a_shorter_curve():
    rows = [{"arm": "r1", "seed": s, "step": i, "curve": "reward", "value": 0.1 * s} for s in range(4) for i in range(5 if s else 2)]
    axes = draw_curves(rows, {"reward": "reward"}).axes[0]
    thin = [line for line in axes.lines if line.get_lw() < 1]
    assert [int(np.isfinite(line.get_ydata()).sum()) for line in thin] == [2, 5, 5, 5]
    (mean,) = [line for line in axes.lines if line.get_lw() == 2]
    assert mean.get_ydata() == pytest.approx([0.15, 0.15, 0.2, 0.2, 0.2]) and len(axes.collections) == 1


def test_the_legend_has_an_arm_without_the_first_panels_curve():
    rows = [
        {"arm": arm, "seed": 0, "step": i, "curve": curve, "value": 0.5}
        for arm, curve in (("r1", "reward"), ("r1", "mIoU"), ("sft", "mIoU"))
        for i in (0, 1)
    ]
    (legend,) = draw_curves(rows, {"reward": "reward", "mIoU": "mIoU"}).legends
    assert [text.get_text() for text in legend.get_texts()] == ["r1", "sft"]


def test_log_shows_the_panels_it_has_values_for():
    log = [{"step": i, "loss": 1.0, "reward": 0.1 * i, "frac_reward_zero_std": None if i == 1 else 0.0} for i in range(3)]
    fig = draw_log(log, window=2)
    assert [ax.get_title() for ax in fig.axes] == ["reward", "within groups"]
    raw, mean = fig.axes[0].lines
    assert list(raw.get_ydata()) == pytest.approx([0, 0.1, 0.2]) and list(mean.get_ydata()) == pytest.approx([0, 0.05, 0.15])
    assert list(fig.axes[1].lines[0].get_xdata()) == [0, 2]
    assert [ax.get_title() for ax in draw_log([{"step": 1, "loss": 2.0}]).axes] == ["loss"]


def test_stacked_parts_add_up():
    values = {"cold": [0.9, 0.95], "RL": [0.9, 0.5], "out": [0.1]}
    ax = draw_histogram(values, "tIoU", stacked=True, bins=2).axes[0]
    assert [list(p.get_data().values) for p in ax.patches] == [[0, 2], [0, 4], [1, 4]]


def test_landscape_is_highest_at_the_truth():
    reward = lambda starts, ends: tiou(np.stack([starts, ends], -1), [12, 18])
    mesh = draw_landscapes({"tIoU": reward}, [12, 18], 30, step=1.0).axes[0].collections[0]
    rewards = mesh.get_array().reshape(31, 31)  # rows are ends, columns starts
    assert np.unravel_index(rewards.argmax(), rewards.shape) == (18, 12) and rewards.max() == 1 and rewards.mask[5, 9]
