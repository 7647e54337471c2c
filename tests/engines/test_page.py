"The page of the engines says what the tests reported."

import json

import run


def test_the_page_is_made_from_the_report():
    assert run.PAGE.read_text() == run.page(json.loads(run.REPORT.read_text())), "run `make engines`"


def test_a_failure_and_a_missing_part_are_on_the_page():
    tests = {
        "test_a": {"outcome": "failed: AssertionError", "seconds": 3, "numbers": []},
        "test_b": {"outcome": "passed", "seconds": 1, "numbers": []},
    }
    text = run.page({"zero": {"date": "2026-01-01", "machine": "m", "versions": {"deepspeed": "1"}, "tests": tests}})
    assert "| 1 passed, 1 failed | m, 2026-01-01 | deepspeed 1 |" in text and "| FSDP2 in two processes | not run |" in text
