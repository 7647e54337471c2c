"""The command line, `vtg-r1`. Progress goes to stderr, results to stdout; exit code 0 is success, 1 a failed run, 2 bad input, 130 Ctrl-C, 141 a reader of stdout that is gone."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from . import ground, calibrate, models, run, recipe, difficulty, estimate, score, data, pages, env  # noqa: F401, I001  # the order of the help page; each module adds its commands
from .common import app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vtg-r1 {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")] = False) -> None:
    "Options before the command."


def join_pairs(words: Sequence[str]) -> list[str]:
    "`-p NAME VALUE` as `-p NAME=VALUE`, the form that the parser takes."
    joined: list[str] = []
    for word in words:
        if len(joined) > 1 and joined[-2] in ("-p", "--parameter") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def main(argv: Sequence[str] | None = None) -> int:
    "Run one command; the console script's entry point."
    words = sys.argv[1:] if argv is None else argv
    parser = typer.main.get_command(app)
    try:
        with parser.make_context("vtg-r1", join_pairs(words)) as context:
            code: int = parser.invoke(context)
            return code
    except typer.Exit as e:  # after --help and --version
        return e.exit_code
    except typer.TyperException as e:
        path = getattr(getattr(e, "ctx", None), "command_path", "vtg-r1")
        print(f"{path}: {e.format_message()}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `vtg-r1 … | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
