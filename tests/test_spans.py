"Span arithmetic against values worked out by hand: borders, degenerate spans, shapes and errors."

import re

import numpy as np
import pytest

from vtg_r1.core.spans import best_over_gts, clip, giou, intersection, iop, length, merge, plain_rows, tiou, union_tiou

NAN, INF = float("nan"), float("inf")
NOTHING = [[5, 5], [9, 3], [NAN, NAN], [NAN, 5], [3, NAN], [INF, INF]]  # zero-length, inverted, unreadable, at infinity


@pytest.mark.parametrize(
    "a, b, seconds",
    [
        ([3, 9], [3, 9], 6),
        ([3, 9], [6, 12], 3),
        ([0, 100], [40, 40.5], 0.5),
        ([3, 9], [9, 12], 0),  # they touch
        ([3, 9], [20, 30], 0),
        ([-5, 5], [-1, 1], 2),
    ],
)
def test_intersection(a, b, seconds):
    assert intersection(a, b) == intersection(b, a) == seconds


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # infinity minus infinity
@pytest.mark.parametrize("span", NOTHING, ids=str)
def test_a_span_without_length_overlaps_nothing(span):
    assert length(span) == 0 and intersection(span, [0, 10]) == intersection([0, INF], span) == intersection(span, [0, INF]) == 0
    assert tiou(span, [0, 10]) == tiou([0, 10], span) == tiou(span, span) == 0
    assert iop(span, [20, 30]) == 0 and giou(span, [0, 10]) == giou([0, 10], span) == giou(span, span) == -1
    assert merge([span]).shape == (0, 2) and union_tiou([span], [[0, 10]]) == union_tiou([[0, 10]], [span]) == 0


@pytest.mark.parametrize(
    "a, b, overlap",
    [
        ([3, 9], [3, 9], 1),
        ([3, 9], [6, 9], 0.5),
        ([3, 9], [6, 12], 3 / 9),
        ([0, 0.5], [0, 0.25], 0.5),  # fractions of a second count too
        ([0, 0.5], [0.25, 1.0], 0.25),
        ([3, 9], [9, 12], 0),
        ([3, 9], [20, 30], 0),
    ],
)
def test_tiou(a, b, overlap):
    found = tiou(a, b)
    assert type(found) is float and found == tiou(b, a) == overlap
    assert union_tiou([a], [b]) == pytest.approx(overlap) and type(union_tiou([a], [b])) is float


def test_shapes_broadcast():
    "One prediction against several truths, pairs, and every one against every other."
    truths = np.array([[3, 9], [6, 12], [20, 30]])
    assert tiou([3, 9], truths).tolist() == [1, 3 / 9, 0]
    assert iop([3, 9], truths).tolist() == [1, 0.5, 0]
    assert iop(truths, [3, 9]).tolist() == [1, 0.5, 0]
    assert giou(truths, [3, 9]).tolist() == [1, 3 / 9, -11 / 27]
    assert tiou(truths[:, None], truths[None]).shape == (3, 3) and np.array_equal(np.diag(tiou(truths[:, None], truths[None])), np.ones(3))
    assert length(truths).tolist() == [6, 6, 10] and length(np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize("function", [length, merge, clip, lambda s: tiou(s, s), lambda s: iop(s, s)], ids=["length", "merge", "clip", "tiou", "iop"])
def test_any_numbers_become_float64(function):
    "A narrow integer type would overflow: 100 − (−100) is no int8."
    for kind in (np.int8, np.float32):
        small = np.array([[-100, 100]], kind)
        assert function(small).dtype == np.float64 and np.array_equal(function(small), function(small.astype(float)))
    assert length(np.array([-100, 100], np.int8)) == 200 and length([None, None]) == 0


@pytest.mark.parametrize("wrong", [3.0, [1, 2, 3], [[1], [2]], []], ids=str)
def test_numbers_that_are_no_span_are_an_error(wrong):
    for function in (length, clip, lambda s: intersection(s, [0, 1]), lambda s: tiou([0, 1], s), lambda s: giou(s, [0, 1]), lambda s: iop([0, 1], s)):
        with pytest.raises(ValueError, match=r"must have shape \(\.\.\., 2\), got \(.*\): give \[start, end\]"):
            function(wrong)


@pytest.mark.parametrize(  # with_points: iop with zero_length=1.0, where a zero-length prediction inside counts 1, as in NExT-GQA's evaluator
    "pred, gt, share, with_points",
    [
        ([3, 9], [0, 30], 1, 1),
        ([3, 9], [6, 30], 0.5, 0.5),
        ([0, 0.5], [0, 0.25], 0.5, 0.5),
        ([0, 30], [3, 9], 0.2, 0.2),
        ([9, 12], [3, 9], 0, 0),
        ([5, 5], [3, 9], 0, 1),  # a point inside
        ([3, 3], [3, 9], 0, 1),  # at either border
        ([9, 9], [3, 9], 0, 1),
        ([2, 2], [3, 9], 0, 0),
        ([10, 10], [3, 9], 0, 0),
        ([9, 3], [0, 30], 0, 0),  # inverted inside
        ([NAN, NAN], [0, 30], 0, 0),
    ],
)
def test_iop(pred, gt, share, with_points):
    assert type(iop(pred, gt)) is float and iop(pred, gt) == share and iop(pred, gt, zero_length=1.0) == with_points
    assert iop([pred, pred], gt).tolist() == [share] * 2


@pytest.mark.parametrize(
    "a, b, value",
    [
        ([3, 9], [3, 9], 1),
        ([3, 9], [6, 12], 3 / 9),  # no gap: the plain IoU
        ([3, 9], [9, 12], 0),
        ([3, 9], [12, 15], -3 / 12),  # a gap of 3 in a hull of 12
        ([0, 0.25], [0.75, 1.0], -0.5),
    ],
)
def test_giou(a, b, value):
    assert type(giou(a, b)) is float and giou(a, b) == giou(b, a) == pytest.approx(value)
    assert giou([a, [5, 5]], [b, b]).tolist() == [giou(a, b), -1]


@pytest.mark.parametrize(
    "spans, merged",
    [
        ([], []),
        ([[3, 9]], [[3, 9]]),
        ([[20, 26], [3, 9]], [[3, 9], [20, 26]]),  # in order of time
        ([[3, 6], [6, 9]], [[3, 9]]),  # touching spans become one
        ([[3, 6], [6.5, 9]], [[3, 6], [6.5, 9]]),
        ([[0, 30], [3, 9], [10, 12]], [[0, 30]]),  # nested: the end is the longest one's
        ([[0, 5], [0, 9]], [[0, 9]]),
        ([[0, 9], [0, 5]], [[0, 9]]),
        ([[0, 30], [3, 9], [29, 40], [50, 60], [55, 56]], [[0, 40], [50, 60]]),
        ([[9, 3], [5, 5], [NAN, 2], [0.25, 0.5]], [[0.25, 0.5]]),
    ],
)
def test_merge(spans, merged):
    found = merge(spans)
    assert found.shape == (len(merged), 2) and found.tolist() == merged


@pytest.mark.parametrize(
    "preds, gts, overlap",
    [
        ([[0, 10], [20, 30]], [[5, 25]], 10 / 30),
        ([[3, 7], [5, 9]], [[3, 9]], 1),  # seconds that are covered twice count once
        ([[20, 26]], [[3, 9], [20, 26]], 0.5),
        ([[0, 0.25]], [[0, 0.5]], 0.5),
        ([], [[3, 9]], 0),
        ([], [], 0),
    ],
)
def test_union_tiou(preds, gts, overlap):
    assert union_tiou(preds, gts) == union_tiou(gts, preds) == pytest.approx(overlap)


def test_best_of_several_true_spans():
    preds = [[3, 9], [NAN, NAN], [0, 10], [6, 9]]
    gts = [[[20, 30], [3, 9]], [[0, 1]], [], [[3, 9], [0, 4], [6, 8]]]
    assert np.array_equal(best_over_gts(preds, gts), [1, 0, NAN, 2 / 3], equal_nan=True)
    assert np.array_equal(best_over_gts(preds, gts, iop), [1, 0, NAN, 1], equal_nan=True)
    assert np.array_equal(best_over_gts(preds, gts, lambda p, g: list(giou(p, g))), [1, -1, NAN, 2 / 3], equal_nan=True)  # a score may return a list
    assert np.isnan(best_over_gts(preds, [[], [], [], []])).all() and best_over_gts(np.zeros((0, 2)), []).shape == (0,)


def test_best_over_gts_gives_its_metric_every_pair_once_as_float64():
    seen = []
    best_over_gts([[0, 1], [2, 3]], [[[4, 5], [6, 7]], [[8, 9]]], lambda p, g: seen.extend([p, g]) or tiou(p, g))
    assert [a.tolist() for a in seen] == [[[0, 1], [0, 1], [2, 3]], [[4, 5], [6, 7], [8, 9]]] and {a.dtype for a in seen} == {np.dtype(np.float64)}
    with pytest.raises(ValueError, match="^1 predictions, 2 rows of true spans: give one row per prediction$"):
        best_over_gts([[0, 1]], [[[0, 1]], [[0, 1]]])


def test_rows_without_true_spans_have_no_best():
    best = best_over_gts([[3, 9], [1, 2], [4, 8]], [[[3, 9]], None, [[0, 1], [4, 6]]])
    assert best.tolist() == [1.0, pytest.approx(np.nan, nan_ok=True), 0.5]


@pytest.mark.parametrize(
    "row, text, fix",
    [
        ([3, 9], "[3, 9]", ": [[3, 9]]"),
        *((row, repr(row), ", such as [[3, 9]]") for row in ("soon", [[3, 9, 1]], ["10", "25"], np.array(["10", "25"]).tolist(), "", {}, 0)),
    ],
)
def test_a_row_that_is_no_list_of_spans_is_named(row, text, fix):
    with pytest.raises(ValueError, match=f"^true spans of row 1 are {re.escape(text)}; give a list of \\[start, end\\] in seconds{re.escape(fix)}$"):
        plain_rows([[[3, 9]], row])


@pytest.mark.parametrize(
    "span, borders, cut",
    [
        ([3, 9], {}, [3, 9]),
        ([-2, 9], {}, [0, 9]),
        ([-2, 0.5], {}, [0, 0.5]),
        ([3, 1e12], {}, [3, 1e12]),  # no upper border unless one is given
        ([3, 9], {"lo": 4, "hi": 8}, [4, 8]),
        ([20, 30], {"hi": 12}, [12, 12]),  # outside: zero-length at the nearer border
        ([-5, -1], {}, [0, 0]),
        ([[1, 2], [3, 9]], {"hi": 5}, [[1, 2], [3, 5]]),
    ],
)
def test_clip(span, borders, cut):
    assert clip(span, **borders).tolist() == cut
