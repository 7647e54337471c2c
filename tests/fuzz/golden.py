"""Make tests/golden/readings.jsonl again: generated answers, and the spans that each reading finds in them.

PYTHONPATH=tests python -m fuzz.golden
"""

import json
from pathlib import Path

from vtg_r1.core.prompts import READINGS, parse_spans

from .responses import fuzzed, fuzzed_answers

FILE = Path(__file__).parents[1] / "golden/readings.jsonl"
DURATION = 30.0  # seconds of the video that each answer is about


def readings(text: str) -> dict[str, list[list[float]]]:  # reading → spans; a reading that finds none is left out
    "The spans that each reading finds in an answer."
    found = {reading: parse_spans(text, reading, DURATION) for reading in READINGS}
    return {reading: spans for reading, spans in found.items() if spans}


def main() -> None:
    texts = [*fuzzed_answers(900, seed=27), *fuzzed(200, seed=27)]
    FILE.write_text("".join(f"{json.dumps([text, readings(text)])}\n" for text in texts))


if __name__ == "__main__":
    main()
