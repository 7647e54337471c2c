"What all commands share: results on stdout, progress and one-line errors on stderr, exit codes, help pages."

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from ..core.runtime import UserError

F = TypeVar("F", bound=Callable[..., int])
app = typer.Typer(
    help="Teach video models to say when.",
    epilog="`vtg-r1 COMMAND --help` has examples. Exit codes: 0 done, 1 it was tried and failed, 2 bad input (one line says what), 130 Ctrl-C.",
    rich_markup_mode=None,
    add_completion=False,
)
AsJson = Annotated[bool, typer.Option("--json", help="print the result as one JSON object")]
Columns = Annotated[str | None, typer.Option(metavar="FIELD=COLUMN,…", help="csv and jsonl: query=caption,start=from,…; answer= leaves a column out")]


class CommandFailed(Exception):
    "The command was tried and failed: one line on stderr, exit code 1."


class Command(TyperCommand):
    "A command whose errors are one line on stderr; its function returns the exit code."

    def invoke(self, ctx: Any) -> int:
        try:
            code: int = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except UserError as e:
            message, code = str(e), 2
        except CommandFailed as e:
            message, code = str(e), 1
        except BrokenPipeError:
            raise
        except OSError as e:  # such as a folder in which nothing may be written
            message, code = str(e), 2
        except KeyboardInterrupt:
            message, code = "interrupted", 130
        print(f"{ctx.command_path}: {message}", file=sys.stderr)
        return code


def command(name: str, *examples: str, fails: str = "", old_name: str = "", group: typer.Typer = app) -> Callable[[F], F]:
    "Decorator that adds a command; its help page ends in examples and exit codes. `fails` says what exit code 1 means."
    codes = ["0 done", "2 bad input, one line says what", "130 interrupted"]
    if fails:
        codes.insert(1, f"1 {fails}")
    lines = "\n  ".join(["examples:", *examples])
    epilog = f"\b\n{lines}\n\nexit codes: {'; '.join(codes)}"  # \b keeps the lines of a paragraph

    def add(function: F) -> F:
        if old_name:  # it still works, and no help page lists it
            group.command(old_name, cls=Command, epilog=epilog, hidden=True)(function)
        return group.command(name, cls=Command, epilog=epilog)(function)

    return add


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    "A callback that takes these values only."

    def check(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(names)}")
        return value

    return check


def print_json(value: object) -> None:
    "One line of JSON on stdout, at once: a server goes on after it."
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)


def quiet_libraries() -> None:
    "Keep the warnings and progress bars of libraries off stderr, which is for progress and errors."
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def first_line(error: Exception) -> str:
    "The first line of an error's message; without a message, the error's name."
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)


def parse_fields(text: str, option: str, may_be_empty: bool = False) -> dict[str, str]:
    "`a=b,c=d` as a dict; `a=` gives an empty value, where it may be empty."
    fields = [field.split("=", 1) for field in text.split(",")]
    if any(len(field) != 2 or not field[0] or not (field[1] or may_be_empty) for field in fields):
        raise UserError(f"{option} {text!r}: write FIELD=COLUMN, several separated by commas")
    names = [field[0] for field in fields]
    if len(set(names)) < len(names):
        raise UserError(f"{option} {text!r}: {max(names, key=names.count)} is given twice")
    return dict(fields)


def column_options(columns: str | None, dataset: str) -> dict[str, Any]:
    "The reader's argument `columns`, if --columns was given."
    if not columns:
        return {}
    if dataset not in ("csv", "jsonl"):
        raise UserError(f"--columns is for csv and jsonl, not for {dataset}")
    return {"columns": parse_fields(columns, "--columns", may_be_empty=True)}
