"""The command line, `vtg-r1`. Progress goes to stderr, results to stdout; exit code 0 is success, 1 a failed run, 2 bad input."""

import argparse
import sys


class UserError(Exception):
    "Bad input: shown as one clear line, exit code 2."


def build_parser() -> argparse.ArgumentParser:
    "The parser with one function a subcommand; each sets `handler`, a function of the parsed arguments that returns an exit code."
    parser = argparse.ArgumentParser(prog="vtg-r1", description="Teach video models to say when.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_data(commands)
    return parser


def add_data(commands) -> None:
    "`vtg-r1 data check`: what an annotation file holds, and what reading it does."
    from .datasets import POLICIES, READERS
    actions = commands.add_parser("data", help="look at annotation files").add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="count what is odd in a published annotation file")
    check.add_argument("--dataset", required=True, choices=READERS, metavar="NAME", help=", ".join(READERS))
    check.add_argument("--annotations", required=True, metavar="PATH", help="the file; for nextgqa (and QuerYD's release) the folder")
    check.add_argument("--split", help="default: what the file name says; test for the NExT-GQA folder")
    check.add_argument("--videos", metavar="DIR", help="open every video below this folder")
    check.add_argument("--workers", type=int, default=2, help="processes that open videos (default 2)")
    check.add_argument("--durations", metavar="PATH", help="JSON with durations by video id, for formats that have none")
    check.add_argument("--columns", metavar="FIELD=COLUMN,…", help="csv and jsonl: query=caption,start=from,…")
    check.add_argument("--against", action="append", default=[], metavar="NAME=PATH", help="a benchmark's test annotations: report what is shared with it (repeatable)")
    check.add_argument("--json", action="store_true", help="print the whole report as JSON")
    for name, choices in POLICIES.items():
        check.add_argument(f"--{name.replace('_', '-')}", choices=choices, default=choices[0], help=f"default {choices[0]}")
    check.set_defaults(handler=_data_check)


def _pairs(text: str, option: str) -> dict[str, str]:
    "`a=b,c=d` as a dict."
    pairs = [p.split("=", 1) for p in text.split(",")]
    if any(len(p) != 2 or not all(p) for p in pairs):
        raise UserError(f"{option} {text!r}: write FIELD=COLUMN, several separated by commas")
    return dict(pairs)


def _data_check(args) -> int:
    import json

    from .datasets import POLICIES
    from .quality import check, overlap_guard, quality_text
    from .samples import SampleError
    options = {"columns": _pairs(args.columns, "--columns")} if args.columns else {}
    if options and args.dataset not in ("csv", "jsonl"):
        raise UserError(f"--columns is for csv and jsonl, not for {args.dataset}")
    policies = {name: getattr(args, name) for name in POLICIES}
    try:
        against = [(*next(iter(_pairs(a, "--against").items())), None) for a in args.against]
        guard = overlap_guard(against) if against else None
        report, found = check(args.dataset, args.annotations, args.split, args.videos, args.workers, guard, args.durations, **policies, **options)
    except (SampleError, OSError) as e:
        raise UserError(str(e)) from None
    print(json.dumps(found, ensure_ascii=False) if args.json else quality_text(found, report))
    return 0


def main(argv: list[str] | None = None) -> int:
    "Run one command; the console script's entry point."
    args = build_parser().parse_args(argv)
    try:
        return args.handler(args)
    except UserError as e:
        print(f"vtg-r1 {args.command}: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
