"Metrics against slow, literal versions of their definitions."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtg_r1.metrics import AP_THRESHOLDS, average_precisions, bootstrap_ci, didemo_metrics, grounding_metrics, mean_ap, overlaps, paired_test, recalls
from vtg_r1.spans import best, tiou

second = st.integers(-20, 200).map(lambda t: t / 10)
span = st.tuples(second, second).map(list)
proper = st.tuples(second, st.integers(1, 100).map(lambda t: t / 10)).map(lambda p: [p[0], p[0] + p[1]])


def slow_overlaps(pred, gts):
    "NExT-GQA's two maxima, one pair at a time."
    iou = iop = 0.0
    for g in gts if pred else []:
        inter = min(pred[1], g[1]) - max(pred[0], g[0])
        if pred[0] == pred[1]: iop = max(iop, float(g[0] <= pred[0] <= g[1]))
        elif pred[0] < pred[1] and inter > 0:
            iou, iop = max(iou, inter / (max(pred[1], g[1]) - min(pred[0], g[0]))), max(iop, inter / (pred[1] - pred[0]))
    return iou, iop


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.none() | span, st.lists(proper, min_size=1, max_size=5)), min_size=1, max_size=8))
def test_overlaps(rows):
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
        if hits[-1]: taken.add(i)
    precision = [sum(hits[:k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precision[k:]) for k, hit in enumerate(hits) if hit) / len(gts)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.lists(span, max_size=12), st.lists(proper, min_size=1, max_size=4, unique_by=tuple)), min_size=1, max_size=5))
def test_average_precision(rows):
    preds, gts = map(list, zip(*rows))
    fast = average_precisions(preds, gts)
    slow = np.array([[slow_ap(p, g, t) for t in AP_THRESHOLDS] for p, g in rows])
    same = np.isclose(fast, slow)
    for i in np.flatnonzero(~same.all(1)):  # the two add up unions differently: only an IoU within rounding of a threshold may fall to either side
        ious = [tiou(p, g) for p in preds[i][:10] for g in gts[i]]
        assert min(abs(u - t) for u in ious for t in AP_THRESHOLDS) < 1e-9


def test_thresholds_are_inclusive_and_exact():
    "Tenths of a second put many queries on a threshold: 3 of 10 seconds is a hit at 0.3, whatever the offset, or the official scripts would not say so either."
    assert grounding_metrics([[0, 3]], [[[0, 10]]])["R1@0.3"] == 100
    assert recalls(np.array([0.5]), above=True)["R1@0.5"] == 0
    for tenth in range(300):
        s, e, end = tenth / 10, tenth / 10 + 3, tenth / 10 + 10
        assert tiou([s, e], [s, end]) == (e - s) / (end - s)


def test_queries_without_truth_and_mismatched_lengths_are_errors():
    with pytest.raises(ValueError, match="query 1 has no true span"): grounding_metrics([[0, 1], [0, 1]], [[[0, 1]], []])
    with pytest.raises(ValueError, match="2 predictions, 1 rows"): best([[0, 1], [0, 1]], [[[0, 1]]])
    with pytest.raises(ValueError, match="no queries"): grounding_metrics([], [])
    with pytest.raises(ValueError, match="2 values, 1 groups"): bootstrap_ci([0, 1], ["a"])


def test_map_of_no_predictions_and_of_all():
    gts = [[[0, 10], [20, 30]], [[5, 9]]]
    assert mean_ap([[], []], gts) == 0 and mean_ap(gts, gts) == 100
    assert mean_ap([[[5, 9]] * 10 + [[0, 10]], gts[1]], gts) == 50  # the eleventh does not count


def test_didemo_by_hand():
    "Four annotators: the worst is left out. [5, 10] is exact for three; for the second query IoUs 1, 1, 1/2 remain."
    gts = [[[5, 10]] * 3 + [[20, 25]], [[0, 10], [5, 10], [5, 10], [15, 20]]]
    assert didemo_metrics([[4.6, 11], [5, 10]], gts) == {"n": 2, "rank@1": 50, "mIoU": pytest.approx(100 * (1 + 2.5 / 3) / 2)}


def test_bootstrap_is_reproducible_and_narrows():
    values = np.random.default_rng(0).random(2000)
    assert bootstrap_ci(values) == bootstrap_ci(values)
    wide, narrow = (np.subtract(*bootstrap_ci(values[:n])[::-1]) for n in (100, 2000))
    assert narrow < wide / 3
    low, high = bootstrap_ci(values, level=0.5)
    assert bootstrap_ci(values)[0] < low < values.mean() < high < bootstrap_ci(values)[1]


def test_paired_test_counts_videos_not_queries():
    "The same gain on 5 videos is far less certain than on 500."
    gain = np.full(500, 0.1)
    assert paired_test(np.zeros(500), gain)["p"] < 1e-3
    assert paired_test(np.zeros(500), gain, groups=np.arange(500) % 5)["p"] == pytest.approx(2 / 2**5, abs=0.01)
    assert paired_test(gain, gain)["p"] == 1
