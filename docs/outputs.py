"""Put the outputs of the committed runs into the notebooks that ran: `make outputs`.

nbdev's tests do not run cells marked `#| eval: false`; their outputs are copied, cell by cell, from the executed notebook of the stage's committed run.
So the command also removes the outputs that a run in JupyterLab has left in these cells. Lesson cells keep their own outputs.
"""

import ast
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "outputs/reference"
Cell = dict[str, Any]


def reference_run(name: str) -> Path | None:
    "The committed run that executed a notebook: the folder that holds the notebook's namesake."
    return next((p.parent for p in sorted(REFERENCE.rglob(f"{name}.ipynb"))), None)


def source_of(cell: Cell) -> str:
    return "".join(cell["source"])


def executed_cells(run: Path | None, name: str) -> dict[str, Cell]:
    "The code cells of a run's notebook by id."
    if run is None:
        return {}
    cells = json.loads((run / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return {cell["id"]: cell for cell in cells if cell["cell_type"] == "code"}


def _as_lines(text: str | list[str]) -> list[str]:
    return "".join(text).splitlines(keepends=True)


def clean_outputs(outputs: list[Cell]) -> list[Cell]:
    "Outputs without stderr, progress bars, the kernel's warnings and execution numbers, in the form in which nbdev stores them."
    cleaned = []
    for output in outputs:
        output = {key: value for key, value in output.items() if key != "execution_count"} | {"metadata": {}}
        if output["output_type"] == "execute_result":
            output["execution_count"] = None
        if output["output_type"] == "stream":
            del output["metadata"]
            lines = [line for line in _as_lines(output["text"]) if "%|" not in line and "[IPKernelApp]" not in line]
            output["text"] = lines
            if output["name"] == "stderr" or not "".join(lines).strip():
                continue
        if "data" in output:
            output["data"] = {kind: _as_lines(value) if kind.startswith("text/") else value for kind, value in sorted(output["data"].items())}
        cleaned.append(dict(sorted(output.items())))
    return cleaned


def filled(notebook: Cell, executed: dict[str, Cell]) -> Cell:
    "A notebook whose cells marked `#| eval: false` have the outputs of an executed one, or none if that lacks the cell."
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and source_of(cell).startswith("#| eval: false"):
            run_cell = executed.get(cell["id"], {"outputs": []})
            cell = {**cell, "outputs": clean_outputs(run_cell["outputs"])}
        cells.append(cell)
    return {**notebook, "cells": cells}


def meaning(source: str) -> str:
    "The code of a cell without its layout and comments."
    try:
        return ast.dump(ast.parse(source))
    except SyntaxError:  # a magic
        return source


def edited_since(notebook: Cell, executed: dict[str, Cell]) -> int:
    "How many cells that show an output of the run have other code than the cells that ran."
    pairs = [
        (source_of(c), source_of(executed[c["id"]])) for c in notebook["cells"] if c["cell_type"] == "code" and c["id"] in executed and c["outputs"]
    ]
    return sum(meaning(now) != meaning(then) for now, then in pairs if now.startswith("#| eval: false"))


def notebooks_with_runs() -> dict[Path, Path]:
    "Notebooks of which a run is committed, and that run's folder."
    runs = {path: reference_run(path.stem) for path in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts}
    return {path: run for path, run in runs.items() if run is not None}


def main() -> None:
    for path, run in notebooks_with_runs().items():
        notebook = json.loads(path.read_text(encoding="utf-8"))
        text = json.dumps(filled(notebook, executed_cells(run, path.stem)), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {len(text) / 1e6:.2f} MB, outputs of {run.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
