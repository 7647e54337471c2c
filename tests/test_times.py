"Times as people and models write them: texts, and the spans that must be read from them."

import json

import pytest
from fuzz.golden import DURATION, FILE, readings
from fuzz.slow_reader import complaint

from vtg_r1.core.prompts import parse_spans
from vtg_r1.core.times import read_pairs, read_spans, read_time

ANSWERS = [  # (text, its spans in seconds; [] must be unreadable)
    ("1'03\" - 1'10\"", [[63, 70]]),
    ("0:00:12,500 --> 0:00:19,250", [[12.5, 19.25]]),
    ("1,234.5 - 1,240.0", [[1234.5, 1240]]),
    ("3,2 - 5,0", [[3.2, 5]]),
    ("frames 10-25", []),
    ("Frame: [10, 25]", []),
    ("images 4 - 9", []),
    ("minutes 2 - 3", [[120, 180]]),
    ("frames 10–25 (2.0–5.0 s)", [[2, 5]]),
    ('{"start_time": 3.2, "end_time": 5.0}', [[3.2, 5]]),
    ("3.2 -> 5.0", [[3.2, 5]]),
    ("3.2秒 - 5秒", [[3.2, 5]]),
    ("3.2～5.0", [[3.2, 5]]),
    ("1. 3.2-5\n2. 7-9", [[3.2, 5], [7, 9]]),
    ("1 min 3 sec to 1 min 10 sec", [[63, 70]]),
    ("Time (minutes): 2 - 3", []),
    ("[3.2 5.0]", [[3.2, 5]]),
    ('[["3.2","5.0"],["7","9"]]', [[3.2, 5], [7, 9]]),
    ("1小时2分3秒至1小时2分10秒", [[3723, 3730]]),
    ("３．２秒から５秒まで", [[3.2, 5]]),
    ("3.2초에서 5초까지", [[3.2, 5]]),
    ("1:03 min - 1:10 min", [[63, 70]]),
    ("0.2 to 0.4 of the video", []),
    ("3.2sec-5sec", [[3.2, 5]]),
    ("begin=3 end=5", [[3, 5]]),
    ("start 3, end 5", [[3, 5]]),
    ("frame10-frame25", []),
    ("approximately 3.2s to approximately 5.0s", [[3.2, 5]]),
    ("3x5 to 7", []),
    ("00:12.500 --> 00:19.250", [[12.5, 19.25]]),
    ("1m30s - 1m45s", [[90, 105]]),
    ("1 h 2 min to 1 h 3 min", [[3720, 3780]]),
    ("90s-2min", [[90, 120]]),
    ("1h02m03s – 1h02m10s", [[3723, 3730]]),
    ("3.2—5.0", [[3.2, 5]]),
    ("3.2〜5.0", [[3.2, 5]]),
    ("3.2至5.0", [[3.2, 5]]),
    ("从3.2秒到5秒", [[3.2, 5]]),
    ("1分03秒到1分10秒", [[63, 70]]),
    ("٣٫٢ - ٥", [[3.2, 5]]),
    ("३.२ - ५", [[3.2, 5]]),
    ("１２．５ － １７", [[12.5, 17]]),
    ("between 3.2 and 5.0", [[3.2, 5]]),
    ("from 3.2 until 5", [[3.2, 5]]),
    ("-2 to 5", [[-2, 5]]),
    ("end: 5, start: -3", [[-3, 5]]),
    ("end: -5, start: -8", [[-8, -5]]),
    ("stop: 5, start: 3", [[3, 5]]),
    ("finish: 5, start: 3", [[3, 5]]),
    ("\\(3.2 - 5\\)", [[3.2, 5]]),  # LaTeX
    ("\\[3, 5\\]", [[3, 5]]),
    ("3.2\\-5", [[3.2, 5]]),
    ("1'3'' - 1'10''", [[63, 70]]),
    ("5 - 1000000000000", [[5, 1e12]]),
    ("5 - 1000000000001", []),
    (f"3.{'0' * 28} - 5", [[3, 5]]),  # 30 characters
    (f"3.{'0' * 29} - 5", []),
    ("1,234.5 ms - 2,345.5 ms", [[1.2345, 2.3455]]),
    ("{3,512}", [[3, 512]]),
    ("3, 5; 7 - 9", [[3, 5], [7, 9]]),
    ("3 - 3 minutes", [[180, 180]]),
    ("(frame 10) 3 s and 5 s", [[3, 5]]),
    ("20-40%", []),
    ("20% - 40%", []),
    ("frame #12", []),
    ("#3", []),
    ("3rd to 5th", []),
    ("Scene 2: 3-5 s", [[3, 5]]),
    ("2024-01-02", []),
    ("3.2\xa0s - 5\xa0s", [[3.2, 5]]),
    ("1e2 - 1e3", []),
    ("9" * 400 + " - 5", []),
    ("9 to 3", [[9, 3]]),
    ("12.5", []),
    ("[[1,2],[3,4]]", [[1, 2], [3, 4]]),
    ("{'start': 3.2, 'end': 5}", [[3.2, 5]]),
    ('{"begin": 3.2, "end": 5}', [[3.2, 5]]),
    ("1:02:03.5 - 1:02:05", [[3723.5, 3725]]),
    ("01:02,5 - 01:04,0", [[62.5, 64]]),
    ("01:00:12,500 --> 01:00:19,250", [[3612.5, 3619.25]]),
    ("1\u2009234.5 - 1\u2009240.0", [[1234.5, 1240]]),
    ("1 234,5 – 1 240", []),
    ("12.5, 30", [[12.5, 30]]),
    ("[12.5,30]", [[12.5, 30]]),
    ("12.5,30", [[12.5, 30]]),
    ("3,9", []),
    ("[3,9]", [[3, 9]]),
    ("[3,2; 5,0]", [[3.2, 5]]),
    ("[3,2, 5,0]", [[3.2, 5]]),
    ("3-5,7-9", [[3, 5], [7, 9]]),
    ("3.2-5,7.1-9", [[3.2, 5], [7.1, 9]]),
    ("1,234", []),
    ("[1,234]", [[1, 234]]),
    ("1,234 - 1,240", []),
    ("12,500 - 19,250", []),
    ("123,456 - 123,500", []),
    ("12,500 s - 19,250 s", []),
    ("1,5 - 12,500", []),
    ("[1,234, 1,240]", []),
    ("3 h 1,234 s to 4 h", []),
    ("1,234 - 1,240.5", [[1234, 1240.5]]),
    ("1,234.5 - 2,000", [[1234.5, 2000]]),
    ("999,500 - 1,000,500", [[999500, 1000500]]),
    ("12,50 - 19,25", [[12.5, 19.25]]),
    ("0,500 - 0,750", [[0.5, 0.75]]),
    ("1234,500 - 1250,250", [[1234.5, 1250.25]]),
    ("[1, 2, 3]", []),
    ("1, 2, 3, 4", []),
    ("1, 2\n3, 4", [[1, 2], [3, 4]]),
    ("(1, 2), (3, 4)", [[1, 2], [3, 4]]),
    ("[(12.0, 15.5), (20, 23)]", [[12, 15.5], [20, 23]]),
    ("3 to 5 to 7", []),
    ("3 to 5 and 7 to 9", [[3, 5], [7, 9]]),
    ("1.0-2.0 5.0-8.0", [[1, 2], [5, 8]]),
    ("12.5 seconds\nuntil 30 seconds", [[12.5, 30]]),
    ("Start: 12.5s, End: 30.0s", [[12.5, 30]]),
    ("From 12.5s to 30.0s", [[12.5, 30]]),
    ("Between 12.5 and 30 seconds.", [[12.5, 30]]),
    ("\n 3.5,\n\t9\n", [[3.5, 9]]),
    ("1 to 2 minutes", [[60, 120]]),
    ("2 min to 3", []),
    ("2-3, 7-9 min", []),
    ("2-3, 7-9 m", []),
    ("[2, 3], [7, 9] h", []),
    ("[7, 9] m", []),
    ("2 - 3 and 7' - 9'", []),
    ("2-3, 7-9分", []),
    ("5 s - 10 s, 1m30s - 1m45s", [[5, 10], [90, 105]]),
    ("30 to 1 minute", []),
    ("2.5–3 min", [[150, 180]]),
    ("3200 ms - 5000 ms", [[3.2, 5]]),
    ("3200 - 5000 ms", [[3.2, 5]]),
    ("1'234 - 1'240", [[1234, 1240]]),
    ("3' - 5'", [[180, 300]]),
    ('12" - 17"', [[12, 17]]),
    ('"3" to "9"', [[3, 9]]),
    ("'3' - '9'", [[3, 9]]),
    ("'from 3 to 9'", [[3, 9]]),
    ("3--5", [[3, 5]]),
    ("3, -5", [[3, -5]]),
    ("end: 5, start: 3", [[3, 5]]),
    ("3 to end at 9", [[3, 9]]),
    ("3 seconds and 9 seconds", [[3, 9]]),
    ("0:-5 to 9", []),
    ("-1:05 to 1:00:05.5", [[-65, 3605.5]]),
    ("00:00:12;10 - 00:00:19;05", []),
    ("0:75 - 0:80", []),
    ("12:30 pm - 12:40 pm", []),
    ("12:30 - 12:40 pm", []),
    ("12:30 - 12:40 p.m.", []),
    ("0:12 - 0:40 am Tisch", [[12, 40]]),  # German
    ("3x to 5x", []),
    ("½ - 3", []),
    ("1½ - 3", []),
    ("12² - 15", []),
    ("3 百 - 5", []),
    ("第10帧到第25帧", []),
    ("第3.2秒到第5秒", [[3.2, 5]]),
    ("开始时间：3.2秒，结束时间：5秒", [[3.2, 5]]),
    ("[12.5 - 30]", [[12.5, 30]]),
    ("**3.2** to **5.0**", [[3.2, 5]]),
    ("[0:12] - [0:19]", [[12, 19]]),
    ("(12,5)–(17,0)", []),
    ("start_frame: 10, end_frame: 25", []),
    ("start_ms: 10, end_ms: 25", []),
    ("3 to 5 for 2 seconds", []),
    ("second 3 to second 9", [[3, 9]]),
    ("from minute 2 to minute 3", [[120, 180]]),
    ("from minute 2 to 3", [[120, 180]]),
    ("t=3 - t=5", [[3, 5]]),
    ("3.2s → 5s", [[3.2, 5]]),
    ("3.2 => 5", [[3.2, 5]]),
    ("3 / 5", []),
    ("3 5", []),
    ("3.2..5", []),
    ("3 minutes to 9 minutes", [[180, 540]]),
    ("frame 10 (3.2 s) to frame 25 (5 s)", [[3.2, 5]]),
    ("20%–40% (3.2–5.0 s)", [[3.2, 5]]),
    ("The man leaves the frame from 3.2s to 5s", [[3.2, 5]]),
    ("3:05 - 4", []),
    ("1:12 - 30", []),
    ("0:12 - 30", [[12, 30]]),
    ("1h30 - 1h45", [[5400, 6300]]),
    ("2m30 - 2m45", [[150, 165]]),
    ("1 minute and 3 seconds to 1 minute and 10 seconds", [[63, 70]]),
    ("1 minute, 3 seconds to 1 minute, 10 seconds", [[63, 70]]),
    ("between 1 minute and 90 seconds", [[60, 90]]),
    ("[1,234.5, 1,240.0]", [[1234.5, 1240]]),
    ("3.2 to 5,0", [[3.2, 5]]),
    ("1.234,5 - 1.240,0", [[1234.5, 1240]]),
    ("[3.2, 5.0] seconds", [[3.2, 5]]),
    ("(3.2s, 5.0s)", [[3.2, 5]]),
    ("3.2s, 5.0s", [[3.2, 5]]),
    ("[1, 2] of 30", []),
    ("nan, inf", []),
    ("unsure", []),
    ("", []),
    ("3.2 秒～5 秒", [[3.2, 5]]),
    ("3.2s-5s, 7s-9s", [[3.2, 5], [7, 9]]),
    ("(1) 3.2 - 5\n(2) 7 - 9", [[3.2, 5], [7, 9]]),
    ("- 3.2-5\n- 7-9", [[3.2, 5], [7, 9]]),
    ("Event 1: 3-5; Event 2: 7-9", [[3, 5], [7, 9]]),
    ("frames numbered 10 to 25", []),
    ("10 to 25 (frames)", []),
    ("picture 3 to picture 5", []),
    ("percent 10-20", []),
    ("from 3.2 s (frame 80) to 5 s", [[3.2, 5]]),
    ("2 to 2 min 30 s", []),
    ("minutes: 3 s - 5", []),
    ("20–40 %", []),
    ("percent: 20 to 40", []),
    ("frame numbers 10-25", []),
    ("10帧 - 25帧", []),
    ("images 4 - 9, 3 s to 5 s", [[3, 5]]),
    ("2:3-5 s", []),
    ("5.0 s. - 7.0 s.", [[5, 7]]),
    ("frames 1:02 - 1:09", []),
    ("𝟏 3-5", []),
    ("① 3-5", []),
    ("3,5 7,9", []),
    ("(3,5) to (7,9)", []),
    ("3-1,234-5", []),
    ("90 frames1 h 06 min to 2 h", []),
    ("clips [3, 5]", []),
    ("[3, 5] (clips)", []),
    ("clips 3-5 (6 s - 12 s)", [[6, 12]]),
    ("clip [3, 5]", [[3, 5]]),
    ("chunk [3, 5]", []),
    ("chunks: 3 - 5", []),
    ("bin [3, 5]", []),
    ("[3, 5] (bins)", []),
    ("idx: [3, 5]", []),
    ("0.1-0.25 (relative)", []),
    ("relative: 0.1 - 0.25", []),
    ("3 to 5, relative to the start", [[3, 5]]),
    ("Clip 1: 3-5; Clip 2: 7-9", [[3, 5], [7, 9]]),
    ("2 min 5 s to 3 min", [[125, 180]]),
    ("2 min and 59 s to 4 min", [[179, 240]]),
    ("2 min 60 s to 4 min", []),  # seconds beside minutes end at 59
    ("2.5 min 5 s to 4 min", []),  # a part of a minute has no seconds beside it
    ("3 s.5 to 9 s", []),
    ("[3,7]", [[3, 7]]),  # a list of two
    ("(3,7)", [[3, 7]]),
    ("[3,7", []),  # half of a list is none
    ("3,7]", []),
    ("''3'' to ''9''", [[3, 9]]),
    ("`3` to `9`", [[3, 9]]),
    ("1:30 h to 1:40 h", []),
]
PROSE = [  # (text, the last period in seconds; None where it names none)
    ("The event happens from 00:12 to 00:19.", [12, 19]),
    ("It begins at 00:00:18 and ends at 00:00:23", [18, 23]),
    ('[{"start_time": "00:12.50", "end_time": "00:19.00"}]', [12.5, 19]),
    ("The event 'person in car 2' happens in the 24.3 - 30.4 seconds.", [24.3, 30.4]),
    ("In the 30-second video, the dog runs from 3.2s to 5s.", [3.2, 5]),
    ("On 2024-01-02, the dog runs from 3.2s to 5s.", [3.2, 5]),
    ("The dog eats 2 to 3 cookies.", None),
    ("The 2-3 people walk", None),
    ("he crosses rooms 3-5", None),
    ("from 3.2 to 5,0x", None),
    ("90s-2min 1:02:03 ms", None),
    ("他在3秒和5秒之间唱歌", [3, 5]),
    ("他于3秒和5秒之间唱歌", [3, 5]),
    ("from 3 to 5, or maybe 7 to 9", [7, 9]),
    ("at 3 s and 9 s he jumps", None),
    ("It lasts 3 to 5 seconds", None),
    ("He lifts it for 3-5 seconds", None),
    ("A 3-5 second clip", None),
    ("It starts at 3 s. The video ends at 30 s.", None),
    ("the video ends at 30 s; the dog starts at 3 s and stops at 5 s", [3, 5]),
    ("The dog runs between 3.2 and 5.0 seconds of the 30 second video.", [3.2, 5]),
    ("Car 2 - 5 s", None),
    ("3.2 - 5.0", [3.2, 5]),
    ("3 and a half to 5", None),
    ("3 point 5 to 7", None),
    ("The event takes place at 12.0 - 19.5 seconds, when 2 men enter room 3.", [12, 19.5]),
    ("2 men enter room 3 between 5.0 and 19.0 seconds.", [5, 19]),
    ("1. The dog runs from 3 to 5.", [3, 5]),
    ("The answer is [3.2, 5.0].", [3.2, 5]),
    ("The score is 3 to 2 at 5 s", [3, 2]),
    ("frames 10 to 25", None),
    ("The given query happens in 3.2 - 5.0 seconds. 10 frames were used.", [3.2, 5]),
    ("事件发生在3.2秒到5秒之间。", [3.2, 5]),
    ("他用了3到5个人", None),
    ("He ran 16:9 from 3 s to 5 s", [3, 5]),
    ("I saw 3.2s and then from 00:05 to 00:07", [5, 7]),
]


@pytest.mark.parametrize("text, spans", ANSWERS)
def test_the_spans_of_an_answer_are_read(text, spans):
    found = read_spans(text)
    assert found == [pytest.approx(span, abs=1e-9) for span in spans]
    assert parse_spans(f"<think>from 1 to 2</think><time>{text}</time>") == found


@pytest.mark.parametrize("text, span", PROSE)
def test_the_last_period_in_prose_is_read(text, span):
    found = read_pairs(text)
    assert (found[-1] if found else None) == (span and pytest.approx(span, abs=1e-9))
    assert parse_spans(f"<think>from 1 to 2</think>{text}", "sentence") == found[-1:]


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("59:59", 3599.0),
        ("1:59:59", 7199.0),
        ("1:60", None),  # a minute has no sixtieth second
        ("1:59:60", None),
        ("1:60:00", None),
        ("1:30 min", 90.0),
        ("1:02 s", 62.0),
        ("1:30 h", None),  # an hour and a half, or a minute and a half
        ("1:02:03 min", None),
        ("1:30 ms", None),
        ("1:02:03 ms", None),
        ("12:01:05 AM", None),  # a time of day
        ("12.5", 12.5),
        ("00:12.50", 12.5),
        ("1 min 3 s", 63),
        ("1 min 500 ms", 60.5),
        ("12 s 12", None),
        ("1h302 m5", None),
        ("3''", 3),
        ("[3,9]", None),
        (":[3,9]", None),
        ("-3", -3),
        (" 3,2 s ", 3.2),
        ("about 3", 3),
        ("250 ms", 0.25),
        ("frame 10", None),
        ("10 %", None),
        ("3 cookies", None),
        ("3 to 5", None),
        ("1:75", None),
        ("soon", None),
        ("9" * 20, None),
        ("12,500", None),
        ("1,234.5", 1234.5),
        ("1,000,500", 1000500),
        ("3" + " " * 1000, None),
    ],
)
def test_a_single_time_is_read(text, seconds):
    assert read_time(text) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.shared
def test_the_shared_cases_are_read(shared):
    "Each case is read in its own convention, and in `auto`."
    cases = shared / "cases" / "answers.jsonl"
    if not cases.is_file():
        pytest.skip(f"{cases} is not there")
    for line in cases.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        text, reading = case["text"], case["reading"]
        if reading == "time":
            text = f"<time>{text}</time>"
        if reading == "answer" and "<glue>" in text:
            reading = "glue"
        if reading == "free":
            reading = "sentence"
        wanted = [case["want"] or [], case.get("or") or case["want"] or []]
        for convention in (reading, "auto"):
            assert any(parse_spans(text, convention) == [pytest.approx(span) for span in spans] for spans in wanted), (convention, text)


def test_answers_are_read_as_they_were():
    """1,100 generated answers, in every reading. The second reader, tests/fuzz/slow_reader.py, has no complaint about any of them.

    If you change a reading on purpose, write the file again (tests/fuzz/golden.py) and say so in CHANGELOG: scores change with it."""
    lines = FILE.read_text().splitlines()
    assert len(lines) == 1100
    for text, spans in map(json.loads, lines):
        assert readings(text) == spans, text
        sound = {
            name for name in spans if name == "tvg_r1" or not complaint(text, name, spans[name], DURATION)
        }  # that reading copies a published rule with its faults
        assert sound == set(spans), text
