"""Each rule has one owner in the sources: read, not run."""

import ast
import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "alocc"
FILES = {path.relative_to(SOURCES).as_posix(): path.read_text(encoding="utf-8") for path in SOURCES.rglob("*.py")}
TREES = {name: ast.parse(text) for name, text in FILES.items()}

OWNERS_OF_TILES = ("data/frame.py", "config.py", "training/tiles.py")
"""How images are cut, the option that asks for it, and the advice to give it; the command line may speak of it too."""
NAMED_ALL_THE_SAME = {
    "data/sources.py": ("wanted.tile", "reads the option to choose a working size, before there is a frame"),
    "training/plan.py": ('generator(config.seed, "tiles")', "name of a random stream; by another, other crops train"),
    "data/decoding.py": ("image.tile", "Pillow's own attribute, nothing of ours"),
}
"""File → the words that it may say, and why."""

ALPHA_RULE = {"default_alpha", "smallest_alpha", "smallest_alpha_text", "images_needed", "p_values", "with_alpha"}
DIVIDES_ALL_THE_SAME = {
    "export/scorer.py": "the graph computes p-values itself, by PyTorch's operators, which are what is exported",
}
MOST_LINES, MOST_PARAMETERS = 60, 8
LONG_ALL_THE_SAME = {("training/run.py", "train")}
"""The public function, whose arguments are the options of a training."""


def names_in(node):
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} | {
        one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)
    }


def is_count_and_one(node):
    """``n + 1``, where n is a name, an attribute or a call."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Add)
        and isinstance(node.right, ast.Constant)
        and node.right.value == 1
        and isinstance(node.left, ast.Name | ast.Attribute | ast.Call)
    )


def divisions_by_count_and_one(tree):
    """Lines with ``… / (n + 1)``."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and is_count_and_one(node.right)
    ]


def counts_in_held_out(tree):
    """Lines with ``searchsorted`` of held-out scores."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and "searchsorted" in names_in(node.func)
        and any("held_out" in name for argument in [node.func, *node.args] for name in names_in(argument))
    ]


def is_a_hundredth(node):
    return isinstance(node, ast.Constant) and node.value == 0.01


def default_alphas(tree):
    """Lines that give alpha the value .01: a constant, a parameter's default, ``alpha=.01`` or ``alpha or .01``."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and is_a_hundredth(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            lines += [node.lineno for target in targets if any("alpha" in name.lower() for name in names_in(target))]
        elif isinstance(node, ast.arguments):
            named = node.posonlyargs + node.args
            pairs = [
                *zip(named[::-1], node.defaults[::-1], strict=False),
                *zip(node.kwonlyargs, node.kw_defaults, strict=True),
            ]
            lines += [
                arg.lineno for arg, default in pairs if default and "alpha" in arg.arg and is_a_hundredth(default)
            ]
        elif isinstance(node, ast.keyword) and node.arg == "alpha" and is_a_hundredth(node.value):
            lines.append(node.value.lineno)
        elif isinstance(node, ast.BoolOp) and any(map(is_a_hundredth, node.values)):
            lines += [node.lineno] if any("alpha" in name for name in names_in(node)) else []
    return lines


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def n_parameters(function):
    arguments = function.args
    named = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return len([argument for argument in named + starred if argument.arg not in ("self", "cls")])


def is_command(name, function):
    """Whether Typer calls the function: its parameters are the options of a command."""
    decorators = {decorator for one in function.decorator_list for decorator in names_in(one)}
    return name.startswith("cli/") and bool(decorators & {"command", "callback"})


def test_the_rules_of_this_file_find_what_they_look_for():
    owner = TREES["calibration.py"]
    assert divisions_by_count_and_one(owner) and counts_in_held_out(owner) and default_alphas(owner)
    assert {function.name for function in functions(owner)} >= ALPHA_RULE
    assert all(divisions_by_count_and_one(TREES[name]) for name in DIVIDES_ALL_THE_SAME)
    assert all(words in FILES[name] for name, (words, _) in NAMED_ALL_THE_SAME.items())
    assert all(re.search(r"\btile", FILES[name]) for name in OWNERS_OF_TILES)
    wanted = ast.parse("def f(self, a, /, b, *c, alpha=0.01, **d):\n    return alpha or 0.01\ng(alpha=0.01)")
    assert default_alphas(wanted) == [1, 2, 3]
    assert n_parameters(functions(wanted)[0]) == 5
    assert any(is_command("cli/app.py", function) for function in functions(TREES["cli/app.py"]))


@pytest.mark.parametrize("name", FILES)
def test_only_the_frame_cuts_images_into_tiles(name):
    if name in OWNERS_OF_TILES or name.startswith("cli/"):
        return
    words, _ = NAMED_ALL_THE_SAME.get(name, ("", ""))
    text = FILES[name].replace(words, "") if words else FILES[name]
    lines = [
        f"{name}:{i}: {line.strip()}" for i, line in enumerate(text.splitlines(), 1) if re.search(r"(?i)\btile", line)
    ]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize("name", FILES)
def test_only_the_calibration_knows_the_alpha_rule(name):
    if name == "calibration.py":
        return
    tree = TREES[name]
    defined = [function.lineno for function in functions(tree) if function.name in ALPHA_RULE - {"with_alpha"}]
    found = {
        "defines a function of the rule": defined,
        "gives alpha its default": default_alphas(tree),
        "divides by a count and one": [] if name in DIVIDES_ALL_THE_SAME else divisions_by_count_and_one(tree),
        "counts in held-out scores": counts_in_held_out(tree),
    }
    assert not any(found.values()), f"{name}: " + "; ".join(f"{what}, lines {at}" for what, at in found.items() if at)


def test_no_function_is_long_or_has_many_parameters():
    offenders = [
        f"{name}:{function.lineno}: {function.name}, {n_lines} lines, {n_parameters(function)} parameters"
        for name, tree in sorted(TREES.items())
        for function in functions(tree)
        if not is_command(name, function)
        and (name, function.name) not in LONG_ALL_THE_SAME
        and function.name != "__init__"
        and ((n_lines := function.end_lineno - function.lineno + 1) > MOST_LINES
             or n_parameters(function) > MOST_PARAMETERS)
    ]  # fmt: skip
    assert not offenders, "\n".join(offenders)
