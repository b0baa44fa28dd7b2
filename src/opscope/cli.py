"""The command line: ``opscope demo``, ``summary``, ``show``, ``draw`` and ``diff``."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.text import Text
from torch import nn

from opscope.errors import (
    OpscopeError,
    TargetError,
    check_depth,
    check_row_limit,
    check_width,
    nearest,
)
from opscope.exporters.dot import DIRECTIONS
from opscope.exporters.picture import can_render, check_path
from opscope.exporters.short_report import check_budget
from opscope.exporters.tables.console import (
    COLUMN_SETS,
    COLUMNS,
    check_columns,
)
from opscope.loading import load
from opscope.notation import encodable, foreign, sentence
from opscope.tracer import Trace, trace
from opscope.verbs.comparing import print_comparison
from opscope.views.quotients.levels import LEVELS

_SHAPE = re.compile(r"(?:(?P<dtype>[a-z]+\d*):)?(?P<sizes>\d+(?:x\d+)*|scalar)")
_TARGET = "PACKAGE.MODULE:CALLABLE"


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {sentence(message)}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 for a difference, 2 for a bad request."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for place in range(len(given) - 1, 0, -1):  # `--sort-by -time`, which is no option
        if given[place - 1] == "--sort-by" and given[place].startswith("-"):
            given[place - 1 : place + 1] = [f"--sort-by={given[place]}"]
    options = _parser().parse_args(given)
    try:
        status: int | None = options.run(options)
    except OpscopeError as error:
        print(f"opscope: error: {sentence(str(error))}", file=sys.stderr)  # noqa: T201
        return 2
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="opscope",
        description="Trace a PyTorch model: every aten op, with its layer and module.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    demo = commands.add_parser("demo", help="trace a ResNet-18, print its table, write its picture")
    demo.add_argument(
        "-o", "--output", help="where to write the picture (default: opscope-demo.svg)"
    )
    demo.add_argument("--width", type=int, help="width of the table, in characters")
    demo.set_defaults(run=_demo)

    summary = commands.add_parser("summary", help="print the table of any importable model")
    _add_target(summary)
    _add_view(summary, "module")
    summary.add_argument(
        "--columns", help=f"comma-separated, of {', '.join(COLUMNS)}; or {', '.join(COLUMN_SETS)}"
    )
    summary.add_argument(
        "--sort-by", metavar="COLUMN", help="largest first; -COLUMN: smallest first"
    )
    summary.add_argument("--row-limit", type=int, metavar="N")
    summary.add_argument(
        "--expand",
        action="append",
        metavar="ADDRESS",
        help="a block to open of those that repeat and are one row; `all` for all",
    )
    summary.add_argument("--width", type=int, help="width of the table, in characters")
    summary.set_defaults(run=_summary)

    show = commands.add_parser(
        "show", help="say what matters of any importable model, in few words"
    )
    _add_target(show)
    show.add_argument("--budget", type=int, default=4000, help="how many characters at most")
    show.add_argument("--json", action="store_true", help="the table of modules as JSON instead")
    show.set_defaults(run=_show)

    _add_files(commands)
    return parser


def _add_files(commands: Any) -> None:
    """Add the commands that write or read files."""
    draw = commands.add_parser("draw", help="draw any importable model")
    _add_target(draw)
    _add_view(draw, "layer")
    draw.add_argument("-o", "--output", required=True, help="a .dot, .gv, .svg, .png or .pdf file")
    draw.add_argument("--direction", default="down", choices=tuple(DIRECTIONS))
    draw.add_argument("--rolled", action="store_true", help="fold the passes of each layer")
    draw.set_defaults(run=_draw)

    diff = commands.add_parser(
        "diff", help="say where two saved runs differ, and exit with 1 if they do"
    )
    diff.add_argument("a", metavar="A.opscope", help="what `trace.save` wrote")
    diff.add_argument("b", metavar="B.opscope", help="the same of the other run")
    diff.add_argument("--rtol", type=float, help="how far apart values may be, relatively")
    diff.add_argument("--atol", type=float, help="and absolutely")
    diff.add_argument("--width", type=int, help="width of the table, in characters")
    diff.set_defaults(run=_diff)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", metavar=_TARGET, help="a module class or instance, or a function that makes one"
    )
    parser.add_argument(
        "--input", action="append", required=True, metavar="SHAPE",
        help="1x3x224x224, or int64:1x16; once per positional argument of forward",
    )  # fmt: skip
    parser.add_argument("--train", action="store_true", help="trace in training mode")


def _add_view(parser: argparse.ArgumentParser, level: str) -> None:
    parser.add_argument("--level", default=level, choices=LEVELS)
    parser.add_argument(
        "--depth", type=int, metavar="N", help="how deep in the module tree to look"
    )


def _demo(options: argparse.Namespace) -> None:
    from opscope.demo import ResNet18

    path = options.output or f"opscope-demo{'.svg' if can_render('.svg') else '.dot'}"
    check_path(path)
    console = _console(options.width)
    model = ResNet18().eval()
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad(), trace(model) as traced:
        model(image)
    console.print(traced)
    written = traced.draw(path)
    console.print()
    _announce(console, written)


def _summary(options: argparse.Namespace) -> None:
    columns: list[str] | str | None = options.columns
    if columns is not None and columns not in COLUMN_SETS:
        columns = [name.strip() for name in options.columns.split(",")]
    check_depth(options.depth)
    check_columns(columns, options.sort_by)
    check_row_limit(options.row_limit)
    console = _console(options.width)
    table = _traced(options).summary(
        options.level, options.depth, columns=columns, sort_by=options.sort_by,
        row_limit=options.row_limit,
        expand="all" if "all" in (options.expand or ()) else options.expand or (),
    )  # fmt: skip
    console.print(table)


def _show(options: argparse.Namespace) -> None:
    check_budget(options.budget)
    traced = _traced(options)
    text = traced.summary(expand="all").to_json() if options.json else traced.text(options.budget)
    _console(None).print(Text(text), soft_wrap=True)


def _draw(options: argparse.Namespace) -> None:
    check_path(options.output)
    check_depth(options.depth)
    written = _traced(options).draw(
        options.output, options.level, options.depth, direction=options.direction,
        rolled=options.rolled,
    )  # fmt: skip
    _announce(_console(None), written)


def _diff(options: argparse.Namespace) -> int:
    console = _console(options.width)
    a, b = load(options.a), load(options.b)
    return print_comparison(a, b, console, rtol=options.rtol, atol=options.atol)


def _announce(console: Console, written: Path) -> None:
    place = foreign(str(written.resolve()), 1000)
    text = encodable(f"Picture written to {place}", console.encoding)
    console.print(Text(text), soft_wrap=True)


def _console(width: int | None) -> Console:
    if width is not None:
        check_width(width, "--width")
    elif not sys.stdout.isatty():
        width = 120  # a file or pipe has no width of its own
    return Console(width=width)


def _traced(options: argparse.Namespace) -> Trace:
    inputs = [_input(text) for text in options.input]
    model = _model(options.target)
    model.train(options.train)
    with torch.no_grad(), trace(model) as traced:
        try:
            model(*inputs)
        except Exception as error:
            shapes = ", ".join(options.input)
            message = f"{options.target} failed on input {shapes}: {type(error).__name__}: {error}"
            raise TargetError(message) from error
    return traced


def _model(target: str) -> nn.Module:
    """Import what a target names, and call it unless it is a module already."""
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        message = f"target {target!r} is not of the form {_TARGET}"
        raise TargetError(message)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        message = f"cannot import {module_name!r}: {type(error).__name__}: {error}"
        raise TargetError(message) from error
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            close = ", ".join(nearest(name, [n for n in dir(found) if not n.startswith("_")]))
            message = f"{module_name!r} has no {attribute!r}; the nearest names: {close}"
            raise TargetError(message)
        found = getattr(found, name)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        message = f"{target} is neither a module nor callable, but {type(found).__name__}"
        raise TargetError(message)
    try:
        model = found()
    except Exception as error:
        message = f"calling {target} without arguments failed: {type(error).__name__}: {error}"
        raise TargetError(message) from error
    if not isinstance(model, nn.Module):
        message = f"{target}() gave {type(model).__name__}, not a torch.nn.Module"
        raise TargetError(message)
    return model


def _input(text: str) -> torch.Tensor:
    """Return a random tensor for a shape such as ``1x3x224x224`` or ``int64:1x16``."""
    match = _SHAPE.fullmatch(text)
    dtype = getattr(torch, match["dtype"] or "float32", None) if match else None
    if match is None or not isinstance(dtype, torch.dtype):
        message = f"--input {text!r} is not a shape such as 1x3x224x224, int64:1x16 or scalar"
        raise TargetError(message)
    sizes = [] if match["sizes"] == "scalar" else [int(n) for n in match["sizes"].split("x")]
    try:
        if dtype.is_floating_point or dtype.is_complex:
            return torch.rand(sizes, dtype=dtype if dtype.is_complex else torch.float32).to(dtype)
        return torch.zeros(sizes, dtype=dtype)
    except RuntimeError as error:
        message = f"--input {text!r} cannot be made: {str(error).splitlines()[0][:120]}"
        raise TargetError(message) from error
