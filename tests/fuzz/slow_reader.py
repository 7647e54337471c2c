"""A second reader of answers, independent of `vtg_r1.core.times`: it goes character by character and uses no regular expression.

It does not look for spans. It decides what each number of a text may mean, and then whether spans that another reader took from the text are sound:
each time is a complete number of the text in its unit, and only joining words stand between the two numbers of a span."""

import unicodedata
from fractions import Fraction

SECONDS_OF = {
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "小时", "小時", "时", "時"), Fraction(3600)),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes", "分", "分钟", "分鐘"), Fraction(60)),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "秒", "秒钟", "秒鐘", "초"), Fraction(1)),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds", "毫秒"), Fraction(1, 1000)),
}
COUNTED = {
    "frame",
    "frames",
    "keyframe",
    "keyframes",
    "image",
    "images",
    "picture",
    "pictures",
    "percent",
    "percentage",
    "%",
    "pixels",
    "fps",
    "帧",
    "px",
    *"clips chunk chunks bin bins idx".split(),
}
JOINING = {
    *"to until till til through thru up and bis then the it its event action moment at on in is of by about around approximately approx roughly exactly t time times timestamp point".split(),
    *"start starts started starting begin begins beginning onset from end ends ended ending stop stops stopped stopping finish finishes finished finishing offset".split(),
    *"至到和与及第约为是于在から에서结束时间大约",
}
JOINS = {"to", "until", "till", "til", "through", "thru", "bis", "and", *"-–~→>,;&至到和与及", "から", "에서"}
ENDS = {"end", "ends", "ended", "ending", "stop", "stops", "stopped", "stopping", "finish", "finishes", "finished", "finishing", "offset", "结束"}
DURATIONS = {"lasts", "last", "lasting", "lasted", "for", "duration", "every", "each", "takes"}
DASHES, QUOTES = "-‐‑‒–—―−─－", "\"“”„″'‘’‚′ʹ´`"


def digit(c: str) -> str:
    "The ASCII digit that a character is, else ''."
    value = unicodedata.decimal(c, None)
    return "" if value is None else str(value)


def plain(c: str) -> str:
    "One character in ASCII's form where it has one."
    if digit(c):
        return digit(c)
    if 0xFF01 <= ord(c) <= 0xFF5E:
        c = chr(ord(c) - 0xFEE0)
    for form, others in {
        "-": "‐‑−",
        "–": "‒–—―─",
        "~": "〜∼",
        "→": "⟶➔➜⇒⟹►➡",
        "'": "‘’‚′ʹ´",
        '"': "“”„″",
        "[": "【「『〔〈《",
        "]": "】」』〕〉》",
        ".": "٫",
    }.items():
        if c in others:
            return form
    return {"，": ",", "、": ",", "；": ";", "。": "."}.get(c, c.lower() if len(c.lower()) == 1 else c)


class Number:
    "A run of digits and separators, and the words beside it."

    def __init__(self, text: str, start: int, end: int, before: str, after: str) -> None:
        self.start, self.end, self.written = start, end, text[start:end]
        self.before, self.after = before, after  # the words beside it
        self.unit: Fraction | None = None
        self.clock = False
        self.value: Fraction | None = None


def decimal(whole: str, part: str) -> Fraction:
    return Fraction(int(whole or "0")) + (Fraction(int(part), 10 ** len(part)) if part else 0)


def groups_of_three(parts: list[str]) -> bool:
    return 1 <= len(parts[0]) <= 3 and parts[0][0] != "0" and len(parts) > 1 and all(len(part) == 3 for part in parts[1:])


def split_at(text: str, marks: str) -> list[str]:
    parts = [""]
    for c in text:
        if c in marks:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def meaning(written: str) -> tuple[Fraction, bool] | None:  # the value, and whether it is a clock time
    "What a run of digits and separators says; None if it says nothing."
    marks = {c for c in written if not c.isdigit()}
    if not marks:
        return decimal(written, ""), False
    if marks == {"."} and written.count(".") == 1:
        return decimal(*split_at(written, ".")), False
    if marks <= {":", ".", ","} and ":" in marks:
        fields = split_at(written, ":")
        last = split_at(fields[-1], ".,")
        if len(fields) > 3 or len(last) > 2 or any(len(f) != 2 or int(f) > 59 for f in [*fields[1:-1], last[0]] if f.isdigit()):
            return None
        if not all(f.isdigit() for f in [*fields[:-1], *last]):
            return None
        total = Fraction(0)
        for field in fields[:-1]:
            total = total * 60 + int(field)
        return total * 60 + decimal(last[0], last[1] if len(last) > 1 else ""), True
    if marks <= {"'", ".", ","} and written.count("'") == 1:
        minutes, rest = split_at(written, "'")
        last = split_at(rest, ".,")
        if minutes.isdigit() and len(last) <= 2 and 1 <= len(last[0]) <= 2 and int(last[0]) < 60:
            return int(minutes) * 60 + decimal(last[0], last[1] if len(last) > 1 else ""), True
    for mark, points in ((",", "."), ("'", ".,"), ("\u2009", ".,"), (".", ",")):
        parts = split_at(written, mark)
        tail = split_at(parts[-1], points)
        whole = [*parts[:-1], tail[0]]
        if groups_of_three(whole) and len(tail) <= 2 and all(p.isdigit() for p in [*whole, *tail]) and (mark != "." or len(tail) == 2):
            return decimal("".join(whole), tail[1] if len(tail) > 1 else ""), False
    if marks == {","} and written.count(",") == 1:
        return decimal(*split_at(written, ",")), False
    return None


def word_at(text: str, i: int, step: int) -> str:
    "The word that begins (or, with step −1, ends) at a place; a CJK unit is a word."
    word = ""
    while 0 <= i < len(text) and (text[i].isalpha() or text[i] in "_%"):
        if word and (ord(text[i]) > 0x2E80) != (ord(word[-1]) > 0x2E80):
            break
        word = word + text[i] if step > 0 else text[i] + word
        i += step
    return word


def numbers_of(text: str, together: bool) -> list[Number]:
    "Every number of a text; with `together`, a comma between digits belongs to the number."
    inside = ".:'\u2009" + ("," if together else "")
    numbers, i, taken = [], 0, 0  # taken: where the last number and the word behind it end
    while i < len(text):
        if not text[i].isdigit():
            i += 1
            continue
        start = i
        if start and text[start - 1] == "." and not (start > 1 and text[start - 2].isdigit()):
            start -= 1
        while i < len(text) and (text[i].isdigit() or text[i] in inside and i + 1 < len(text) and text[i + 1].isdigit()):
            i += 1
        number = Number(text, start, i, "", "")
        left = start - 1
        while left >= 0 and text[left] in " :=#[({\"'`*~<-\n":
            left -= 1
        number.before = word_at(text, left, -1)
        if left + 1 - len(number.before) < taken:  # it belongs to the number before
            number.before = ""
        right = i + 1 if i < len(text) and text[i] in " -" else i
        number.after = word_at(text, right, 1)
        taken = right + len(number.after)
        unit = next(
            (
                number.after[:n]
                for n in range(len(number.after), 0, -1)
                if number.after[:n] in SECONDS_OF and (n == len(number.after) or ord(number.after[0]) > 0x2E80)
            ),
            None,
        )
        said = meaning(number.written)
        touching = word_at(text, i, 1)
        odd_side = (start and text[start - 1] in "/#$€£^×+.°") or (i < len(text) and text[i] in "/^×+°$€£%")
        if (
            said is not None
            and not odd_side
            and not (
                start and (text[start - 1].isalpha() and ord(text[start - 1]) < 0x2E80 and not glued_unit(text, start) or text[start - 1] == "_")
            )
        ):
            if not touching or unit is not None or ord(touching[0]) > 0x2E80:
                number.value, number.clock = said
        if unit is not None:
            number.unit, i = SECONDS_OF[unit], right + len(unit)
            number.end = i
        elif (
            i < len(text) and text[i] in "\"'" and (start == 0 or text[start - 1] != text[i]) and not (text[i] == "'" and text[0] == text[-1] == "'")
        ):
            number.unit = Fraction(1 if text[i] == '"' else 60)
            number.end = i = i + 1
        numbers.append(number)
    if not any(n.written.count(",") > 1 or "." in n.written for n in numbers if thousands(n.written)):
        for number in numbers:
            if thousands(number.written):
                number.value = None  # a decimal comma, or thousands
    return compounded(text, numbers)


def thousands(written: str) -> bool:
    "Whether a number is grouped by commas."
    return "," in written and all(c.isdigit() or c in ",." for c in written) and groups_of_three(split_at(split_at(written, ".")[0], ","))


def glued_unit(text: str, start: int) -> bool:
    "Whether the letters before a number are the unit of another, as in `1m30s`."
    letters = word_at(text, start - 1, -1)
    at = start - len(letters) - 1
    if at > 0 and text[at] == " ":
        at -= 1
    return letters in SECONDS_OF and at >= 0 and text[at].isdigit()


def compounded(text: str, numbers: list[Number]) -> list[Number]:
    "The numbers, where those of `1 min 3 s` become one."
    merged: list[Number] = []
    for number in numbers:
        last = merged[-1] if merged else None
        if last and last.value is not None and number.value is not None and last.unit and last.unit >= 60 and not last.clock and not number.clock:
            gap, unit = text[last.end : number.start], number.unit
            if unit is None and not gap and len(number.written) == 2:
                unit = last.unit / 60
            if unit and unit < last.unit and gap in ("", " ", ", ", " and ") and number.value * unit < last.unit and last.value.denominator == 1:
                last.value, last.unit, last.end = (last.value * last.unit + number.value * unit) / unit, unit, number.end
                continue
        merged.append(number)
    return merged


def words_between(gap: str) -> list[str]:
    "Words and marks of a text, in order."
    words, word = [], ""
    for c in gap:
        if c.isalpha() and ord(c) < 0x2E80:
            word += c
            continue
        if word:
            words.append(word)
        word = ""
        if not c.isspace():
            words.append(c)
    return [*words, word] if word else words


def without_counts(text: str, numbers: list[Number]) -> tuple[str, list[Number]]:
    "A text and its numbers without those that count frames or percent; all other characters stay at their positions."
    chars, rest, last_counted = list(text), [], False
    for k, number in enumerate(numbers):
        gap = text[numbers[k - 1].end : number.start] if k else ""
        timed = number.unit is not None or number.clock
        ranged = last_counted and number.unit is None and not number.clock and gap.strip() in ("-", "–", "to", "~", "→", "->", "至", "到")
        counts = not timed and (number.before in COUNTED or number.after in COUNTED or ranged)
        last_counted = counts
        if not counts:
            rest.append(number)
            continue
        chars[number.start : number.end] = " " * (number.end - number.start)
        for word, at in (
            (number.before, text.rfind(number.before, 0, number.start)),
            (number.after, text.find(number.after, number.end - len(number.after))),
        ):
            if word in COUNTED:
                chars[at : at + len(word)] = " " * len(word)
    return "".join(chars), rest


def joined(gap: str) -> bool:
    "Whether the text between two numbers has only words and marks that may stand in a span, and one that joins."
    words = words_between(gap)
    plain_words = [w for w in words if len(w) > 1 or w.isalpha()]
    known = all(w in JOINING or any(end in w for end in ENDS) or w in SECONDS_OF or any(w in unit for unit in ("秒钟", "分钟")) for w in plain_words)
    marks = all(w in "-–~→>=,;&:.|/\"'`*()[]{}<>_\n" for w in words if w not in plain_words)
    return (
        known
        and marks
        and (
            any(w in JOINS or any(end in w for end in ENDS) for w in words) or "から" in gap or "에서" in gap or "结束" in gap or gap.strip(" ") == ""
        )
    )


def may_mean(number: Number, other: Number, front: Fraction | None) -> set[Fraction]:  # front: the unit of the word before the number
    "The seconds that a number may mean when the other number of its span is `other`."
    if number.value is None:
        return set()
    if number.clock:
        return {number.value}
    other_unit = None if other.clock else other.unit
    units = {number.unit} if number.unit else ({front} if front else {other_unit or Fraction(1), Fraction(1)})
    if not number.unit and not front and other_unit and other_unit != 1:
        units = {other_unit}
    return {number.value * unit for unit in units}


def near(a: float, b: Fraction) -> bool:
    return abs(Fraction(a) - b) <= Fraction(1, 10**9) * max(1, abs(b))


def comma_may_part(text: str, a: Number, b: Number) -> bool:
    "Whether a bare comma between two numbers may separate them: it is no decimal comma, or the two stand in brackets."
    whole = meaning(text[a.start : b.end])
    opened, closed = text[: a.start].rstrip(" \"'`*")[-1:], text[b.end :].lstrip(" \"'`*")[:1]
    return whole is None or (opened in tuple("[({") and closed in tuple("])}"))


def sound_pair(text: str, numbers: list[Number], i: int, span: list[float], counted: bool) -> bool:
    "Whether numbers i and i + 1 of a text are this span; `counted`: the text has numbers of frames or percent too."
    a, b = numbers[i], numbers[i + 1]
    gap = text[a.end : b.start]
    if a.before in COUNTED or b.before in COUNTED or a.after in COUNTED or b.after in COUNTED or a.before in DURATIONS:
        return False
    if not joined(gap) or gap == "," and not comma_may_part(text, a, b):
        return False
    front = SECONDS_OF.get(a.before)
    front_b = SECONDS_OF.get(b.before) if b.before != a.after or b.unit is None and a.unit is None else None
    explicit = a.clock or b.clock or a.unit or b.unit or front or front_b
    if counted and not explicit:
        return False
    for x, y in ((a, b), (b, a)):
        starts = may_mean(x, y, front if x is a else front_b or front)
        ends = may_mean(y, x, (front_b or front) if y is b else front)
        if any(near(abs(span[0]), s) for s in starts) and any(near(abs(span[1]), e) for e in ends):
            return (x is a) or any(end in text[max(0, a.start - 20) : a.start] for end in ("end", "stop", "finish"))
    return False


def spaced(text: str) -> str:
    "A text with plain characters and single spaces; a narrow space between digits stays, as a separator of thousands."
    out = ""
    for i, c in enumerate(text):
        between = 0 < i < len(text) - 1 and bool(digit(text[i - 1])) and bool(digit(text[i + 1]))
        if c in "\u00a0\u2009\u202f" and between:
            out += "\u2009"
        elif c == "\n":
            out += c
        elif c.isspace() or c == "\\" or unicodedata.category(c) == "Cf" or c in "\x0b\x0c":
            out += " " if not out.endswith(" ") else ""
        elif c in "，、；。":
            out += plain(c) + " "
        else:
            out += plain(c)
    while "  " in out or "''" in out:
        out = out.replace("  ", " ").replace("''", '"')
    return out


def objection(text: str, spans: list[list[float]], every: bool, counts: bool = True) -> str:
    "What is wrong with spans that were read in a text; '' if nothing. With `every`, each number that may be a time must be in a span."
    text = spaced(text)
    words = words_between("".join(" " if c.isdigit() or c == "_" else c for c in text))
    counted = counts and (any(word in COUNTED for word in words) or "%" in text or "帧" in text)
    reasons = []
    for together in (True, False):
        bare, numbers = without_counts(text, numbers_of(text, together))
        at, reason = 0, ""
        for span in spans:
            while at + 1 < len(numbers) and not sound_pair(bare, numbers, at, span, counted):
                at += 1
            if at + 1 >= len(numbers):
                reason = f"{span} is not in {[n.written for n in numbers]}"
                break
            at += 2
        labels = sum(1 for n in numbers if text[n.end : n.end + 1] in (".", ":", ")") or n.before in COUNTED or n.after in COUNTED or counted)
        if not reason and every and len(numbers) - labels > 2 * len(spans):
            reason = f"numbers are left over: {[n.written for n in numbers]}"
        if not reason:
            return ""
        reasons.append(reason)
    return "; ".join(reasons)


def same(text: str, mark: str, i: int) -> bool:
    "Whether a mark stands at position `i` of a text, in upper or lower case."
    return len(text) >= i + len(mark) and all(a == b or "A" <= a <= "Z" and chr(ord(a) + 32) == b for a, b in zip(text[i : i + len(mark)], mark))


def after_thinking(response: str) -> str:
    "The text behind the last end of thinking; '' if the thinking never ends."
    at, opened = 0, False
    for i in range(len(response)):
        for tag in ("think>", "thinking>"):
            if same(response, f"<{tag}", i):
                opened = True
            if same(response, f"</{tag}", i):
                at, opened = i + len(tag) + 2, False
    return "" if opened else response[at:]


def block(response: str, tag: str) -> str | None:
    "The last closed block of a tag behind the thinking."
    text, last = after_thinking(response), None
    for i in range(len(text)):
        if same(text, f"<{tag}>", i):
            end = text.find("<", i + 1)
            if end >= 0 and same(text, f"</{tag}>", end):
                last = text[i + len(tag) + 2 : end]
    return last


def without_tags(text: str) -> str:
    "The text with a space in place of each tag."
    out, i = "", 0
    while i < len(text):
        end = text.find(">", i)
        name = text[i + 1 : end].removeprefix("/") if text[i] == "<" and end > 0 else ""
        if name and len(name) <= 20 and all("a" <= c.lower() <= "z" and c.isascii() for c in name):
            out, i = out + " ", end
        else:
            out += text[i]
        i += 1
    return out


def complaint(response: str, reading: str, spans: list[list[float]], duration: float) -> str:
    "What is wrong with the spans that a reading found in a response; '' if nothing."
    if not spans:
        return ""
    if reading in ("time", "answer", "glue"):
        inside = block(response, reading)
        return f"no {reading} block" if inside is None else objection(inside, spans, True)
    text = after_thinking(response)
    if reading in ("sentence", "auto"):
        text = without_tags(text.strip()[-300:])
    if reading == "vtimellm":
        spans = [[100 * t / duration for t in span] for span in spans]
        whole = all(abs(t - round(t)) < 1e-9 and 0 <= t <= 100 for span in spans for t in span)
        return objection(text, spans, False, counts=False) if whole else f"{spans} are no hundredths"
    if reading == "json":
        values = [
            n.value * unit
            for together in (True, False)
            for n in numbers_of(spaced(text), together)
            if n.value is not None
            for unit in ({n.unit or Fraction(1)})
        ]
        values += [Fraction(0)] if "-0" in text else []
        strange = [t for span in spans for t in span if not any(near(abs(t), v) for v in values)]
        return f"{strange} are no numbers of it" if strange and "e" not in text.lower().replace("end", "").replace("time", "") else ""
    if reading == "auto":
        blocks = [block(response, tag) for tag in ("time", "answer", "glue")]
        reasons = [objection(inside, spans, True) for inside in blocks if inside is not None and any(map(digit, inside))]
        if "" in reasons or not complaint(response, "json", spans, duration):
            return ""
    return objection(text, spans, False)
