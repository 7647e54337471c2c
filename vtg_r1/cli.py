"""The command line, `vtg-r1`. Progress goes to stderr, results to stdout; exit code 0 is success, 1 a failed run, 2 bad input."""

import argparse
import sys


class UserError(Exception):
    "Bad input: shown as one clear line, exit code 2."


def build_parser() -> argparse.ArgumentParser:
    "The parser with one function a subcommand; each sets `handler`, a function of the parsed arguments that returns an exit code."
    parser = argparse.ArgumentParser(prog="vtg-r1", description="Teach video models to say when.")
    parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    return parser


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
