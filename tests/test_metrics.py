"Metrics against slow, literal versions of their definitions."

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtg_r1.core.metrics import (
    AP_THRESHOLDS,
    THRESHOLDS,
    _prediction_array,
    average_precisions,
    didemo_metrics,
    grounding_metrics,
    mean_ap,
    overlaps,
    qa_metrics,
    qvhighlights_metrics,
    recalls,
)
from vtg_r1.core.spans import best_over_gts, tiou
from vtg_r1.core.stats import _in_batches, bootstrap_ci, paired_test
from vtg_r1.rewards import answer_reward

second = st.integers(-20, 200).map(lambda t: t / 10)
span = st.tuples(second, second).map(list)
proper = st.tuples(second, st.integers(1, 100).map(lambda t: t / 10)).map(lambda p: [p[0], p[0] + p[1]])


def slow_overlaps(pred, gts):
    "NExT-GQA's two maxima, one pair at a time."
    iou = iop = 0.0
    for g in gts if pred else []:
        inter = min(pred[1], g[1]) - max(pred[0], g[0])
        if pred[0] == pred[1]:
            iop = max(iop, float(g[0] <= pred[0] <= g[1]))
        elif pred[0] < pred[1] and inter > 0:
            iou, iop = max(iou, inter / (max(pred[1], g[1]) - min(pred[0], g[0]))), max(iop, inter / (pred[1] - pred[0]))
    return iou, iop


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.none() | span, st.lists(proper, min_size=1, max_size=5)), min_size=1, max_size=8))
def test_overlaps_are_those_of_the_slow_version(rows):
    preds, gts = map(list, zip(*rows))
    iou, iop = overlaps(preds, gts, zero_length_iop=1)
    assert list(zip(iou, iop)) == [slow_overlaps(p, g) for p, g in rows]


def slow_ap(preds, gts, threshold):
    "Area under the interpolated precision-recall curve of one query."
    taken, hits = set(), []
    for p in preds[:10]:
        ious = [(tiou(p, g), i) for i, g in enumerate(gts) if i not in taken]
        iou, i = max(ious, default=(0, None))
        hits.append(iou >= threshold)
        if hits[-1]:
            taken.add(i)
    precision = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precision[k:]) for k, hit in enumerate(hits) if hit) / len(gts)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.lists(span, max_size=12), st.lists(proper, min_size=1, max_size=4, unique_by=tuple)), min_size=1, max_size=5))
def test_average_precision_is_that_of_the_slow_version(rows):
    preds, gts = map(list, zip(*rows))
    fast = average_precisions(preds, gts)
    slow = np.array([[slow_ap(p, g, t) for t in AP_THRESHOLDS] for p, g in rows])
    same = np.isclose(fast, slow)
    for i in np.flatnonzero(~same.all(1)):  # an IoU that is a threshold up to rounding may count in one version alone; no other difference is allowed
        ious = [tiou(p, g) for p in preds[i][:10] for g in gts[i]]
        assert min(abs(u - t) for u in ious for t in AP_THRESHOLDS) < 1e-9


def test_thresholds_are_inclusive_and_exact():
    """Times in tenths of a second put many queries exactly on a threshold: 3 of 10 seconds is a hit at 0.3.

    Where the offset makes rounding decide, `tiou` rounds as the formula of the official scripts."""
    assert grounding_metrics([[0, 3]], [[[0, 10]]])["R1@0.3"] == 100
    assert recalls(np.array([0.5]), above=True)["R1@0.5"] == 0
    for tenth in range(300):
        s, e, end = tenth / 10, tenth / 10 + 3, tenth / 10 + 10
        assert tiou([s, e], [s, end]) == (e - s) / (end - s)


@pytest.mark.parametrize(
    "metric, args, error",
    [
        (overlaps, ([[0, 1], [2, 3]], [[[0, 1]], [2, 3]]), r"row 1 are \[2, 3\]; give .*: \[\[2, 3\]\]$"),
        (overlaps, ([[0, 1], [2]], [[[0, 1]], [[2, 3]]]), r"prediction of query 1 is \[2\]; give \[start, end\]"),
        (overlaps, ([[[0, 1], [2, 3]], [[2, 3], [4, 5]]], [[[0, 1]], [[2, 3]]]), "prediction of query 0 is"),
        (overlaps, ([[0, 1], "2-3"], [[[0, 1]], [[2, 3]]], 0.0, ["a", "b"]), r"prediction of query 1 \(qid 'b'\) is '2-3'"),
        (overlaps, ([[0, 1], ["a", 2]], [[[0, 1]], [[2, 3]]]), r"prediction of query 1 is \['a', 2\]"),
        (overlaps, ([[0, 1], None], [[[0, 1]], []], 0.0, ["a", "b"]), r"query 1 \(qid 'b'\) has no true span"),
        (mean_ap, ([[[0, 1]]], [[[0, 1]], [[2, 3]]]), "1 rows of predictions, 2 of true spans"),
        (mean_ap, ([[[0, 1]], []], [[[0, 1]], []]), "query 1 has no true span"),
        (mean_ap, ([[0, 1]], [[[0, 1]]]), r"predictions of row 0 are \[0, 1\]; give .*: \[\[0, 1\]\]$"),
        (mean_ap, ([], []), "^no queries to score$"),
        (qvhighlights_metrics, ([[0, 1]], [[[0, 1]]]), r"^predictions of row 0 are"),
        (didemo_metrics, ([[0, 5]], [[0, 5]]), "row 0 are"),
        (didemo_metrics, ([], []), "^no queries to score$"),
        (paired_test, ([1, 2], [1]), "2 values of A, 1 of B"),
        (paired_test, ([], []), "no values"),
        (bootstrap_ci, ([],), "no values"),
    ],
)
def test_an_error_names_the_query(metric, args, error):
    with pytest.raises(ValueError, match=error):
        metric(*args)


def test_queries_without_truth_and_mismatched_lengths_are_errors():
    with pytest.raises(ValueError, match="query 1 has no true span"):
        grounding_metrics([[0, 1], [0, 1]], [[[0, 1]], []])
    with pytest.raises(ValueError, match="2 predictions, 1 rows"):
        best_over_gts([[0, 1], [0, 1]], [[[0, 1]]])
    with pytest.raises(ValueError, match="^no queries to score$"):
        grounding_metrics([], [])
    with pytest.raises(ValueError, match="^1 predictions, 2 rows of true spans: give one row per prediction$"):
        didemo_metrics([[0, 5]], [[[0, 5]] * 3] * 2)
    with pytest.raises(ValueError, match="2 values, 1 groups"):
        bootstrap_ci([0, 1], ["a"])


def test_no_prediction_and_a_point_score_nothing():
    assert np.array_equal(_prediction_array([[0, 3], None]), [[0, 3], [np.nan, np.nan]], equal_nan=True)
    assert _prediction_array([]).shape == (0, 2) and _prediction_array([[0, 3]]).dtype == np.float64
    iou, iop = overlaps([None, [5, 5], [0, 5]], [[[0, 10]]] * 3)
    assert iou.tolist() == [0, 0, 0.5] and iop.tolist() == [0, 0, 1]  # a point scores nothing unless NExT-GQA's convention is asked for
    assert overlaps([[5, 5]], [[[0, 10]]], zero_length_iop=1.0)[1].tolist() == [1]


def test_recalls_by_hand():
    overlap = np.array([0.3, 0.5, 0.6, 0.7])
    assert THRESHOLDS == (0.3, 0.5, 0.7)
    assert recalls(overlap) == recalls(overlap, THRESHOLDS, "R1", False) == {"R1@0.3": 100, "R1@0.5": 75, "R1@0.7": 25}
    assert recalls(overlap, (0.5, 0.6), "IoP", above=True) == {"IoP@0.5": 50, "IoP@0.6": 25}


def test_grounding_by_hand():
    preds, gts = [[0, 5], None, [20, 30]], [[[0, 10]], [[0, 10]], [[5, 6], [20, 30]]]
    third = pytest.approx(100 / 3)
    assert grounding_metrics(preds, gts) == {"n": 3, "R1@0.3": pytest.approx(200 / 3), "R1@0.5": pytest.approx(200 / 3), "R1@0.7": third, "mIoU": 50}
    assert grounding_metrics(preds, gts, (0.9,)) == {"n": 3, "R1@0.9": third, "mIoU": 50}


def test_qa_by_hand():
    "Right answers may be 1.0 and 0.0, as the reward gives them. An overlap that equals the threshold counts."
    correct = answer_reward([f"<answer>{letter}</answer>" for letter in "AABA"], answer=list("AAAA"))
    overlap = np.array([0.5, 0.49, 0.9, 0.8])
    assert qa_metrics(correct, overlap, "Acc@GQA") == {"Acc@QA": 75, "Acc@GQA": 50}
    assert qa_metrics(correct, overlap, "Acc@IoU", threshold=0.6) == {"Acc@QA": 75, "Acc@IoU": 25}


@pytest.mark.parametrize(
    "preds, gts, options, precisions",
    [
        ([[0, 1]], [[0, 1]], {"thresholds": (0.5, 0.95)}, [1, 1]),
        ([[0, 5]], [[0, 10]], {"thresholds": (0.5, 0.55)}, [1, 0]),  # exactly on a threshold
        ([[0, 0.5]], [[0, 1]], {"thresholds": (0.5, 0.55)}, [1, 0]),
        ([[0, 10]] * 2, [[0, 10], [20, 30]], {"thresholds": (0.5,)}, [0.5]),  # a true span is found once
        ([[50, 60], [0, 10]], [[0, 10]], {"thresholds": (0.5,)}, [0.5]),  # found at rank 2
        (
            [[50, 60], [0, 10], [20, 30]],
            [[0, 10], [20, 30]],
            {"thresholds": (0.5,)},
            [2 / 3],
        ),  # precision is interpolated: 0, 1/2, 2/3 becomes 2/3 throughout
        ([[0, 10], [0, 6.5]], [[0, 8], [0, 10]], {"thresholds": (0.7,)}, [1]),  # the true span that fits best is taken, the other stays for the next
        ([[5, 15], [10, 20]], [[0, 10], [10, 20]], {"thresholds": (0.3,)}, [0.5]),  # of two that fit alike the last, as in the official script
        ([[9, 3]], [[3, 9]], {"thresholds": (0.1,)}, [0]),
        ([[5, 5]], [[5, 5]], {"thresholds": (0.5,)}, [0]),  # 0/0
        ([[5, 5]], [[5, 5]], {"thresholds": (0.5,), "undefined": np.inf}, [1]),  # which the official script calls a hit
        ([[50, 60], [0, 10]], [[0, 10]], {"thresholds": (0.5,), "ranks": 1}, [0]),
        ([[50, 60]] * 9 + [[0, 10]], [[0, 10]], {"thresholds": (0.5,)}, [0.1]),  # the tenth rank counts, the eleventh does not
        ([[50, 60]] * 10 + [[0, 10]], [[0, 10]], {"thresholds": (0.5,)}, [0]),
    ],
)
def test_average_precision_by_hand(preds, gts, options, precisions):
    assert average_precisions([preds], [gts], **options) == pytest.approx(np.array([precisions]))
    beside = average_precisions([[], preds, [[0, 4], [6, 9]]], [[[0, 4]], gts, [[0, 4]]], **options)  # rows of other lengths change nothing
    assert beside == pytest.approx(np.array([[0] * len(precisions), precisions, [1] * len(precisions)]))
    assert mean_ap([preds], [gts], **options) == pytest.approx(100 * np.mean(precisions))


def test_map_of_no_predictions_and_of_all():
    gts = [[[0, 10], [20, 30]], [[5, 9]]]
    assert AP_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    assert mean_ap([[], []], gts) == 0 and mean_ap(gts, gts) == 100 and average_precisions([[], []], gts).tolist() == [[0] * 10] * 2
    assert mean_ap([[[5, 9]] * 10 + [[0, 10]], gts[1]], gts) == 50  # the eleventh does not count


window = st.tuples(st.integers(0, 60), st.integers(1, 60)).map(lambda p: [2.0 * p[0], 2.0 * (p[0] + p[1])])
ranked = st.lists(st.tuples(window | proper, st.sampled_from([0.1, 0.5, 0.9])), max_size=13)


def slow_brief(rows):
    "The `brief` results of QVHighlights by their definition; a row is (predictions with scores, true windows) of a query."
    firsts = [max((tiou(preds[0][0], g) for g in gts), default=0) if preds else 0 for preds, gts in rows]
    brief = {f"R1@{m}": 100 * np.mean([iou >= m for iou in firsts]) for m in (0.5, 0.7)}
    best_first = [[p for p, _ in sorted(preds[:10], key=lambda p: -p[1])] for preds, _ in rows]

    def mean(thresholds, low=0, high=np.inf):
        values = []
        for preds, (_, gts) in zip(best_first, rows):
            inside = [g for g in gts if low < g[1] - g[0] <= high]
            if inside:
                values.append(np.mean([slow_ap(preds, inside, t) for t in thresholds]))
        return 100 * np.mean(values) if values else None

    brief |= {"mAP": mean(AP_THRESHOLDS), "mAP@0.5": mean([0.5]), "mAP@0.75": mean([0.75])}
    brief |= {"mAP-short": mean(AP_THRESHOLDS, 0, 10), "mAP-middle": mean(AP_THRESHOLDS, 10, 30), "mAP-long": mean(AP_THRESHOLDS, 30, 150)}
    return {name: value for name, value in brief.items() if value is not None}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(ranked, st.lists(window, min_size=1, max_size=4, unique_by=tuple)), min_size=1, max_size=5))
def test_the_metrics_of_qvhighlights_are_those_of_the_slow_version(rows):
    fast = qvhighlights_metrics(
        [[p for p, _ in preds] for preds, _ in rows], [gts for _, gts in rows], [[score for _, score in preds] for preds, _ in rows]
    )
    ious = [tiou(p, g) for preds, gts in rows for p, _ in preds for g in gts]
    on_threshold = any(min(abs(u - t) for t in AP_THRESHOLDS) < 1e-9 for u in ious)  # there rounding decides
    assert fast.keys() == slow_brief(rows).keys()
    assert on_threshold or fast == pytest.approx(slow_brief(rows))


def test_the_metrics_of_qvhighlights_by_hand():
    "R1 takes the first prediction. mAP sorts the first ten by score, equal scores in the order given. A window of 10 s is short, one of 30 s middle."
    true, exact, off = [[0, 10]], [0, 10], [50, 60]
    by_score = qvhighlights_metrics([[off, exact]], [true], [[0.2, 0.9]])
    assert by_score == {"R1@0.5": 0, "R1@0.7": 0, "mAP": 100, "mAP@0.5": 100, "mAP@0.75": 100, "mAP-short": 100}
    as_listed = qvhighlights_metrics([[off, exact]], [true])
    assert as_listed == qvhighlights_metrics([[off, exact]], [true], [None]) == qvhighlights_metrics([[off, exact]], [true], [[0.5, 0.5]])
    assert as_listed["mAP"] == 50 and qvhighlights_metrics([[off] * 10 + [exact]], [true], [[0.1] * 10 + [0.9]])["mAP"] == 0
    lengths = qvhighlights_metrics([[[0, 10]], [[0, 30]], [[0, 31]], [[0, 160]]], [[[0, 10]], [[0, 30]], [[0, 31]], [[0, 160]]])
    assert {k for k in lengths if "-" in k} == {"mAP-short", "mAP-middle", "mAP-long"} and set(lengths.values()) == {100}
    assert "mAP-long" not in qvhighlights_metrics([[]], [[[0, 160]]])  # longer than any window of the data
    assert set(qvhighlights_metrics([[exact]], [[[100, 105]]])) & {"mAP-short", "mAP-middle", "mAP-long"} == {"mAP-short"}
    mixed = qvhighlights_metrics([[off, exact]] * 2, [true] * 2, [None, [0.2, 0.9]])
    assert mixed["mAP"] == 75  # a half in the list's order, all in that of the scores
    inverted = qvhighlights_metrics([[[8, 3]]], [[[20, 25]]])  # −5 + 5 − 0 seconds: the official script divides 0 by 0, and counts a hit
    assert inverted["mAP"] == inverted["mAP-short"] == 100
    with pytest.raises(ValueError, match="query 0 has 1 predictions and 2 scores"):
        qvhighlights_metrics([[exact]], [true], [[1, 2]])


def test_didemo_by_hand():
    "Four annotators: the worst is left out. [5, 10] is exact for three; for the second query IoUs 1, 1, 1/2 remain."
    gts = [[[5, 10]] * 3 + [[20, 25]], [[0, 10], [5, 10], [5, 10], [15, 20]]]
    assert didemo_metrics([[4.6, 11], [5, 10]], gts) == {"n": 2, "rank@1": 50, "mIoU": pytest.approx(100 * (1 + 2.5 / 3) / 2)}
    assert didemo_metrics([[2.4, 6.2], None], [[[2, 6]] * 3] * 2, chunk=2.0) == {"n": 2, "rank@1": 50, "mIoU": 50}


def test_bootstrap_is_reproducible_and_narrows():
    values = np.random.default_rng(0).random(2000)
    assert bootstrap_ci(values) == bootstrap_ci(values)
    wide, narrow = (np.subtract(*bootstrap_ci(values[:n])[::-1]) for n in (100, 2000))
    assert narrow < wide / 3
    low, high = bootstrap_ci(values, level=0.5)
    assert bootstrap_ci(values)[0] < low < values.mean() < high < bootstrap_ci(values)[1]


def members(values, groups):
    "Values by group, in the order of the groups' names."
    return [[v for v, g in zip(values, groups) if g == name] for name in sorted(set(groups))]


def slow_bootstrap(values, groups, level=0.95, resamples=2000, seed=0):
    rows = members(values, groups)
    draws = np.random.default_rng(seed).integers(len(rows), size=(resamples, len(rows)))
    return tuple(np.percentile([np.mean([v for i in draw for v in rows[i]]) for draw in draws], [50 * (1 - level), 50 * (1 + level)]))


@pytest.mark.parametrize("options", [{}, {"level": 0.5}, {"resamples": 300}, {"seed": 7}], ids=str)
def test_bootstrap_against_a_slow_one(options):
    "Videos of unequal numbers of queries are drawn whole."
    values = np.random.default_rng(1).random(40).astype(np.float32)
    videos = [f"v{i // 3}" for i in range(40)]
    for drawn, groups in ((None, range(40)), (videos, videos)):
        ends = bootstrap_ci(values, drawn, **options)
        assert ends == pytest.approx(slow_bootstrap(values.astype(float), groups, **options), abs=1e-12) and {type(v) for v in ends} == {float}


@pytest.mark.parametrize("values, groups", [([0.2, 0.9, 0.4], ["v"] * 3), ([0.5], None)])
def test_one_video_gives_no_interval(values, groups):
    "Every resample is the same video: an interval of width zero would look like certainty."
    assert np.isnan(bootstrap_ci(values, groups)).all()
    test = paired_test(np.zeros(len(values)), values, groups)
    assert np.isnan([test["low"], test["high"]]).all() and test["p"] == 1 and test["difference"] == pytest.approx(np.mean(values))


def slow_p(a, b, groups, resamples=10_000, seed=0):
    sums = [sum(row) for row in members([float(y) - float(x) for x, y in zip(a, b)], groups)]
    flips = np.random.default_rng(seed).integers(2, size=(resamples, len(sums)), dtype=np.int8) * 2 - 1
    return (1 + sum(abs(np.dot(flip, sums)) >= abs(sum(sums)) - 1e-9 for flip in flips)) / (1 + resamples)


@pytest.mark.parametrize("options", [{}, {"resamples": 500}, {"seed": 7}], ids=str)
def test_the_paired_test_against_a_slow_one(options):
    "The difference is B − A, and its interval is that of the bootstrap with the same groups and seed. The values are hits, so there are ties."
    rng = np.random.default_rng(2)
    a, b = (rng.random(40) < 0.4).tolist(), (rng.random(40) < 0.7).tolist()
    videos = [i // 3 for i in range(40)]
    seed = {k: v for k, v in options.items() if k == "seed"}
    for drawn, groups in ((None, range(40)), (videos, videos)):
        low, high = bootstrap_ci(np.subtract(b, a, dtype=float), drawn, **seed)
        assert paired_test(a, b, drawn, **options) == {
            "difference": pytest.approx(np.mean(b) - np.mean(a)),
            "low": low,
            "high": high,
            "p": pytest.approx(slow_p(a, b, groups, **options), abs=1e-12),
        }
    assert paired_test(b, a)["difference"] < 0 < paired_test(a, b)["difference"] and paired_test(b, a)["p"] == paired_test(a, b)["p"]


@pytest.mark.parametrize(
    "resamples, size, batches", [(10_000, 40, [10_000]), (10_000, 101, [9900, 100]), (10_000, 250, [4000, 4000, 2000]), (3, 10**7, [1, 1, 1])]
)
def test_resampling_draws_about_a_million_numbers_at_a_time(resamples, size, batches):
    assert _in_batches(resamples, size) == batches


def test_paired_test_counts_videos_not_queries():
    "The same gain on 5 videos is far less certain than on 500."
    gain = np.full(500, 0.1)
    assert paired_test(np.zeros(500), gain)["p"] < 1e-3
    assert paired_test(np.zeros(500), gain, groups=np.arange(500) % 5)["p"] == pytest.approx(2 / 2**5, abs=0.01)
    assert paired_test(gain, gain)["p"] == 1
