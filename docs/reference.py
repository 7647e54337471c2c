"""The reference pages of the site, made from the code: signatures, docstrings and the comments beside parameters, and the help of the command line.

Modules are read, not imported, so that a page costs no library; only the page of the commands imports `vtg_r1.cli`.
"""

import ast
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "vtg_r1"
STAGES = ("curation", "rewards", "sft", "difficulty", "grpo", "ablations", "benchmarks")
ROOMS = {  # subpackages, a page each
    "core": "spans, samples, prompts, metrics",
    "runs": "run folders, parameters, experiments",
    "video": "decoding and cutting",
    "data": "annotation files, predictions, the toy world",
    "models": "loading and asking models",
    "train": "trainers, callbacks, checks",
    "pages": "pages in the browser, the hub",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def comments_of(source: str) -> dict[int, str]:
    "The comment at the end of each line, by line number."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def signature(function: Function) -> str:
    "The signature without comments; a long one with one parameter per line."
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    line = f"{function.name}({ast.unparse(function.args)}){returns}"
    if len(line) <= 88:
        return line
    arguments = function.args
    defaults: list[ast.expr | None] = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
    rows = [_with_default(a, d) for a, d in zip(arguments.args, defaults)]
    if arguments.vararg:
        rows.append("*" + ast.unparse(arguments.vararg))
    elif arguments.kwonlyargs:
        rows.append("*")
    rows += [_with_default(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    if arguments.kwarg:
        rows.append("**" + ast.unparse(arguments.kwarg))
    return f"{function.name}(\n" + "".join(f"    {row},\n" for row in rows) + f"){returns}"


def _with_default(argument: ast.arg, default: ast.expr | None) -> str:
    text = ast.unparse(argument)
    if default is None:
        return text
    return f"{text} = {ast.unparse(default)}" if argument.annotation else f"{text}={ast.unparse(default)}"


def parameter_comments(function: Function, comments: dict[int, str]) -> list[tuple[str, str]]:
    "Names of parameters and the comments beside them; the comment after the closing parenthesis is that of the result."
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    by_line: dict[int, list[str]] = {}
    for argument in every:
        if argument is not None:
            for line in {argument.lineno, argument.end_lineno or argument.lineno}:  # behind a type of several lines it is at its end
                by_line.setdefault(line, []).append(argument.arg)
    head_end = function.body[0].lineno - 1
    rows = [(names[0], comments[line]) for line, names in by_line.items() if line in comments and len(names) == 1 and line != head_end]
    if head_end in comments:
        rows.append(("returns", comments[head_end]))
    return rows


def documented(text: str) -> list[str]:
    "A docstring as Markdown: its Args and Returns as a list, its example as code."
    parts = re.split(r"^(Args|Returns|Example):\n", text, flags=re.MULTILINE)
    lines = [_escaped(parts[0].strip())]
    for title, body in zip(parts[1::2], parts[2::2]):
        rows = [line.strip() for line in body.strip().splitlines()]
        if title == "Example":
            lines.append("```pycon\n" + "\n".join(rows) + "\n```")
        elif title == "Returns":
            lines.append(f"*Returns* {_escaped(' '.join(rows))}")
        else:
            lines.append(_bullets([(name, about) for name, about in (row.split(": ", 1) for row in rows)]))
    return lines


def _escaped(text: str) -> str:
    "Text in which nothing but code is read as Markdown."
    pieces = re.split(r"(`[^`\n]+`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([\\\[\]<>*_{}|$@#~])", r"\\\1", piece) for piece in pieces)


def _bullets(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"- `{name}`: {_escaped(about)}" if name != "returns" else f"- *returns* {_escaped(about)}" for name, about in rows)


def function_entry(function: Function, comments: dict[int, str], level: int) -> list[str]:
    "A function or a method: heading, signature, what it does, its parameters."
    lines = [f"{'#' * level} {function.name}"]
    lines.append(f"```python\n{signature(function)}\n```")
    lines += documented(ast.get_docstring(function) or "")
    rows = parameter_comments(function, comments)
    if rows:
        lines.append(_bullets(rows))
    return lines


def field_about(field: ast.AnnAssign, comments: dict[int, str]) -> str:
    "The description of a field of a dataclass: the comment beside it, or the text in its `param(default, text)`."
    value = field.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "param":
        default, text = ast.unparse(value.args[0]), ast.literal_eval(value.args[1])
        papers = [ast.unparse(k.value).strip("'") for k in value.keywords if k.arg == "paper"]
        return f"{text} Default: `{default}`{''.join(f', in the paper `{paper}`' for paper in papers)}."
    return comments.get(field.end_lineno or field.lineno, "")


def class_entry(node: ast.ClassDef, comments: dict[int, str]) -> list[str]:
    "A class: its fields, its methods."
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    lines = [f"### {node.name}", f"```python\nclass {node.name}{f'({bases})' if bases else ''}\n```"]
    lines += documented(ast.get_docstring(node) or "")
    fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and not ast.unparse(f.target).startswith("_")]
    told = [(ast.unparse(f.target), field_about(f, comments)) for f in fields]
    if any(about for _, about in told):
        lines.append("\n".join(f"- `{name}`: {_escaped(about)}" if about else f"- `{name}`" for name, about in told))
    for method in node.body:
        if isinstance(method, Function) and not method.name.startswith("_"):
            lines += function_entry(method, comments, 4)
    return lines


def exported(tree: ast.Module) -> list[str]:
    "The names of a module's `__all__`; of a module that has none, its public functions and classes."
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" and isinstance(node.value, ast.List):
            return [e.value for e in node.value.elts if isinstance(e, ast.Constant)]
    return [n.name for n in tree.body if isinstance(n, Function | ast.ClassDef) and not n.name.startswith("_")]


def module_entries(path: Path, names: list[str] | None = None) -> Iterator[str]:
    "The entries of a module's public names, in the order of the file."
    source = path.read_text(encoding="utf-8")
    tree, comments = ast.parse(source), comments_of(source)
    wanted = set(names or exported(tree))
    for node in tree.body:
        if isinstance(node, Function) and node.name in wanted:
            yield from function_entry(node, comments, 3)
        elif isinstance(node, ast.ClassDef) and node.name in wanted:
            yield from class_entry(node, comments)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for name in sorted(set(target_names(node)) & wanted):
                yield from _value_entry(node, name, comments)


def target_names(node: ast.Assign | ast.AnnAssign) -> list[str]:
    "The names that an assignment gives values to."
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
    return [ast.unparse(name) for target in targets for name in (target.elts if isinstance(target, ast.Tuple) else [target])]


def _value_entry(node: ast.Assign | ast.AnnAssign, name: str, comments: dict[int, str]) -> list[str]:
    lines = [f"### {name}"]
    text = ast.unparse(node)
    if len(text) <= 300:
        lines.append(f"```python\n{text}\n```")
    about = comments.get(node.lineno, "")
    if about:
        lines.append(_escaped(about))
    return lines


def notebook_of(path: Path) -> str:
    "The notebook that a module is exported from, as a path below the project; empty for plain Python."
    line = re.search(r"File to edit: (?:\.\./)+(\S+\.ipynb)", path.read_text(encoding="utf-8"))
    return line[1] if line else ""


def modules_of(package: Path, room: str) -> list[Path]:
    "The modules of a subpackage; for `stages` those of the stages, in the order in which they run."
    if room == "stages":
        return [package / f"{stage}.py" for stage in STAGES]
    return [p for p in sorted((package / room).glob("*.py")) if not p.name.startswith("_")]


def room_page(package: Path, room: str, about: str) -> str:
    "A page with every public name of a subpackage, or of the stages."
    parts = [f"# {PACKAGE if room == 'stages' else f'{PACKAGE}.{room}'}: {about}"]
    for path in modules_of(package, room):
        place = f"{PACKAGE}.{path.stem}" if room == "stages" else f"{PACKAGE}.{room}.{path.stem}"
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        notebook = notebook_of(path)
        parts += [f"## {place}", _escaped(doc.split("\n\n")[0])]
        if notebook:
            parts.append(f"[Read the notebook](../../{notebook})")
        parts += module_entries(path)
    return "\n\n".join(part for part in parts if part) + "\n"


def public_page(package: Path) -> str:
    "The page of `vtg_r1.__all__`."
    modules = {}
    for node in ast.parse((package / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_MODULE_OF":
            modules = ast.literal_eval(node.value)
    parts = [f"# The public names of {PACKAGE}", f"`import {PACKAGE}` gives these {len(modules)} names. `help({PACKAGE}.score)` shows the same text."]
    for name, module in modules.items():
        entries = list(module_entries(package / f"{module.replace('.', '/')}.py", [name]))
        parts += [entry.removeprefix("#") if entry.startswith("##") else entry for entry in entries]
    rooms = "\n".join(f"- [{PACKAGE}.{room}]({room}.md): {about}" for room, about in ROOMS.items())
    parts += ["## Everything else", f"- [{PACKAGE}](stages.md): the seven stages\n{rooms}\n- [the command line](cli.md)"]
    return "\n\n".join(parts) + "\n"


def summaries(group: Any) -> dict[str, str]:
    "The first sentence of every command below a group, by the command's name."
    known: dict[str, str] = {}
    for name, command in group.commands.items():
        known[name] = (command.help or "").replace("\n", " ").split(". ")[0].rstrip(".") + "."
        if hasattr(command, "commands"):
            known |= summaries(command)
    return known


def _examples(match: re.Match[str]) -> str:
    return f"**Examples**:\n\n```console\n{textwrap.dedent(match[1]).rstrip()}\n```\n"


def command_page() -> str:
    "The help of every command, as typer writes it."
    import typer
    from typer.cli import get_docs_for_click

    from vtg_r1.cli import app

    command = typer.main.get_command(app)
    # any command will do: without one typer would print the help and end
    with command.make_context("vtg-r1", ["env"], resilient_parsing=True) as context:
        text = get_docs_for_click(obj=command, ctx=context, name="vtg-r1", title="The command line")
    for name, about in summaries(command).items():  # typer cuts them at 45 characters
        text = re.sub(rf"^\* `{name}`: .*\.\.\.$", f"* `{name}`: {about}", text, flags=re.MULTILINE)
    text = re.sub(r"^examples:\n((?: .*\n|\n(?= ))+)", _examples, text.replace("\b", ""), flags=re.MULTILINE)
    return _without_tags(re.sub(r"\n{3,}", "\n\n", text))


def _without_tags(text: str) -> str:
    "Markdown in which an angle bracket outside code is no HTML."
    pieces = re.split(r"(^```.*?^```$|`[^`\n]+`)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(piece if piece.startswith("`") else piece.replace("<", "\\<") for piece in pieces)


def pages(package: Path) -> dict[str, str]:
    "Every reference page by its name."
    rooms = {"stages": "the seven stages", **ROOMS}
    return {"index": public_page(package), "cli": command_page(), **{room: room_page(package, room, about) for room, about in rooms.items()}}


def write_pages(root: Path, folder: Path) -> list[str]:
    "Write the pages that have changed; the names of all pages."
    sys.path.insert(0, str(root))
    folder.mkdir(exist_ok=True)
    written = pages(root / PACKAGE)
    for name, text in written.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return list(written)
