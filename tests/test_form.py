"The form of the package: public functions have types, conditional expressions are few, names such as `found` are not used."

import ast
import io
import tokenize

from vtg_r1.core.runtime import project_root

FILES = [p for p in sorted((project_root() / "vtg_r1").rglob("*.py")) if p.name != "_modidx.py" and p.parent.name != "experiments"]
TREES = {p: ast.parse(p.read_text(encoding="utf-8")) for p in FILES}


def public_functions(body: list[ast.stmt]) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    "Public functions of a module and public methods of its public classes."
    functions = []
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            functions += public_functions(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            functions.append(node)
    return functions


def untyped(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    "Parameters without a type, and `return` if the function has no return type."
    parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    names = [a.arg for a in parameters if a.annotation is None and a.arg not in ("self", "cls")]
    names += [a.arg for a in (function.args.vararg, function.args.kwarg) if a is not None and a.annotation is None]
    return names + ["return"] * (function.returns is None)


def test_public_functions_are_typed():
    missing = [f"{p.name}: {f.name} ({', '.join(names)})" for p, tree in TREES.items() for f in public_functions(tree.body) if (names := untyped(f))]
    assert missing == []


def test_the_search_finds_parameters_and_results_without_a_type():
    source = "def f(a, b: int): ...\nclass C:\n    def m(self, *args) -> None: ...\ndef _p(x): ...\ndef g(a: int) -> int: ..."
    assert [untyped(f) for f in public_functions(ast.parse(source).body)] == [["a", "return"], ["args"], []]


def test_there_are_fewer_than_15_conditional_expressions_per_thousand_lines():
    lines = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in FILES)
    conditionals = sum(isinstance(node, ast.IfExp) for tree in TREES.values() for node in ast.walk(tree))
    assert 1000 * conditionals / lines < 15


def test_no_name_is_a_word_that_does_not_say_what_it_holds():
    empty = {"found", "told", "heard", "shown", "said"}
    names = [
        f"{p.name}:{token.start[0]} {token.string}"
        for p in FILES
        for token in tokenize.generate_tokens(io.StringIO(p.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.NAME and token.string in empty
    ]
    assert names == []
