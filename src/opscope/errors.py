"""Every error that opscope raises itself.

    OpscopeError
    ├── CollectorError     a collector of the user's raised                            (RuntimeError)
    ├── OptionError        an argument's name or value is not one of the valid ones   (ValueError)
    ├── LayerNotFound      no layer answers to this key                                (KeyError)
    ├── AmbiguousLayer     several layers, or several passes, answer to this key       (KeyError)
    ├── NotSaved           the layer is known, its values were not saved               (LookupError)
    ├── TraceStateError    the trace is not in a state that allows this                (RuntimeError)
    ├── NonFiniteError     the program got to see a NaN or an infinity           (ArithmeticError)
    ├── RenderError        a picture's format cannot be made on this machine           (RuntimeError)
    ├── TargetError        the command line's model or input cannot be used            (ValueError)
    ├── UnreadableFile     a file is no run that was saved whole, or of a newer opscope (ValueError)
    ├── ProgramChanged     a program is no longer what was pinned of it            (AssertionError)
    └── UnsupportedTorch   this torch lacks what opscope needs of it                  (ImportError)

The exception of a traced program is never one of these, and never wrapped.
"""

from __future__ import annotations

import codecs
import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from heapq import nlargest
from itertools import islice, repeat

from opscope.notation import encodable, foreign, sentence

_WIDEST = 200  # characters of a line


class OpscopeError(Exception):
    """The base of every error that opscope raises itself.

    Its message is one line, whatever the names and messages in it hold.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(sentence(item) if isinstance(item, str) else item for item in args))

    def __str__(self) -> str:
        # KeyError would show the repr of the message.
        return encodable(str(self.args[0])) if self.args else ""


class CollectorError(OpscopeError, RuntimeError):
    """A collector raised while it looked at the program, see `opscope.Collector`."""


class OptionError(OpscopeError, ValueError):
    """An argument's name or value is not one of the valid ones."""


class LayerNotFound(OpscopeError, KeyError):
    """No layer answers to this key."""


class AmbiguousLayer(OpscopeError, KeyError):
    """Several layers, or several passes of one, answer to this key."""


class NotSaved(OpscopeError, LookupError):
    """The layer is known, but what was asked for was not saved."""


class TraceStateError(OpscopeError, RuntimeError):
    """The trace is not in a state that allows this."""


class NonFiniteError(OpscopeError, ArithmeticError):
    """A program got to see a NaN or an infinity, and this is where it came from.

    What came in with a tensor from outside was made by no op: there ``operator`` is empty, ``op``,
    ``layer`` and ``phase`` are None, and ``source`` is the line that brought it or first read it.

    Attributes:
        kind: ``"NaN"`` or ``"Inf"``: what it was at first.
        operator: The operator that made it out of finite numbers, such as ``"aten.log.default"``.
        ranges: What that was given: each tensor's argument, type, sizes and range; or the same of
            what it came in with.
        came_in_with: ``"parameter"``, ``"buffer"``, ``"input"`` (of the model), ``"data"`` (any other
            tensor from outside), ``"argument"`` (of the operator, which was given a NaN),
            ``"memory"`` (that `torch.empty` gave and nothing wrote); None if an operator made it.
        name: The name of the parameter, buffer, input or argument.
        made_of: Where the infinity came from of which the operator made a NaN, in words, if that
            was meant to be there.
        seen_in: Where the program sees it, such as ``"the gradient of 0.weight"``.
        op: Index of the op that made it.
        layer: Label of its layer, with the pass; known when the block has ended. None for what
            belongs to no layer.
        module: Address of its module, or of the parameter's, likewise.
        source: File and line, likewise.
        phase: In which phase of a training step it ran, likewise.
    """

    def __init__(
        self,
        *args: object,
        kind: str = "",
        operator: str = "",
        ranges: tuple[str, ...] = (),
        came_in_with: str | None = None,
        name: str | None = None,
        seen_in: str | None = None,
        made_of: str | None = None,
        first_op: int | None = None,
    ) -> None:
        super().__init__(*args)
        came_in = came_in_with not in (None, "argument")
        self.kind = kind
        self.operator = "" if came_in else operator
        self.ranges = ranges
        self.came_in_with = came_in_with
        self.name = name
        self.made_of = made_of
        self.seen_in = seen_in
        self.op: int | None = None if came_in else first_op
        self.layer: str | None = None
        self.module: str | None = None
        self.source: str | None = None
        self.phase: str | None = None
        self._first_op = first_op
        if kind:
            self.args = (str(self),)  # for those who show these

    def __str__(self) -> str:
        if not self.kind:
            return super().__str__()
        where = [f"op {self.op}" if self.op is not None else "", self.phase or ""]
        where += [f"layer {foreign(self.layer)}" if self.layer else ""]
        where += [f"module {foreign(self.module)}" if self.module and self.operator else ""]
        where += [f"at {foreign(self.source)}" if self.source else ""]
        found = ", ".join(filter(None, where))
        given, verb = ("given ", "in") if self.operator else ("", "first read")
        lines = [
            foreign(self._headline()),
            f"{verb} {found}" if found else "",
            *(f"{given}{foreign(text)}" for text in self.ranges),
            f"out of the {foreign(self.made_of)}" if self.made_of else "",
            f"seen in {foreign(self.seen_in)}" if self.seen_in else "",
        ]
        return encodable("\n    ".join(filter(None, lines)))

    def _headline(self) -> str:
        if self.came_in_with is None:
            return f"{self.operator} made the first {self.kind}"
        if self.came_in_with == "argument":
            return f"{self.operator} was given {self.kind} as {self.name}"
        if self.came_in_with == "memory":
            return f"{self.kind} came in with memory that nothing wrote"
        return f"{self.kind} came in with {self.came_in_with} {self.name or ''}".rstrip()


class RenderError(OpscopeError, RuntimeError):
    """A picture's format cannot be made on this machine."""


class TargetError(OpscopeError, ValueError):
    """The command line's model or input cannot be used."""


class UnreadableFile(OpscopeError, ValueError):
    """A file is no run that was saved whole, was changed since, or is of a newer opscope."""


class ProgramChanged(OpscopeError, AssertionError):
    """A program is no longer what was pinned of it, see `opscope.assert_same`.

    Attributes:
        difference: A table of what differs.
    """

    def __init__(self, *message: str, difference: str = "") -> None:
        super().__init__(*message)
        self.difference = difference

    def __str__(self) -> str:
        lines = map(foreign, self.difference.splitlines(), repeat(_WIDEST))
        return "\n".join((super().__str__(), "", *lines)).rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), difference=self.difference), self.args


class UnsupportedTorch(OpscopeError, ImportError):
    """This torch lacks what opscope needs of it; raised as opscope is imported."""


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Raise an `OptionError` that lists the choices unless ``value`` is one of them."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        message = f"unknown {option}: {value!r} (must be one of {listed})"
        raise OptionError(message)


CALL_IT = (
    ": write `with opscope.trace(model) as trace:`, inside of it `model(x)`, and after it "
    "`print(trace.summary())`; for the table alone, `print(opscope.summary(model, x))`"
)


def check_model(model: object, kind: type | tuple[type, ...], hint: str = "") -> None:
    """Raise an `OptionError` unless ``model`` is a module, of the class of all; say what else may be."""
    if not isinstance(model, kind):
        message = f"model: {type(model).__name__} object (must be a torch.nn.Module{hint})"
        raise OptionError(message)


def check_row_limit(row_limit: int | None) -> None:
    """Raise an `OptionError` unless ``row_limit`` is None or a whole number from 1."""
    if row_limit is not None and (type(row_limit) is not int or row_limit < 1):
        message = f"row_limit: {row_limit!r} (must be None, for all, or a whole number from 1)"
        raise OptionError(message)


def check_expand(expand: Sequence[str] | str, addresses: Sequence[str]) -> frozenset[str] | None:
    """Return the addresses of blocks to open, None for all; check that there are such modules."""
    if isinstance(expand, str) and expand == "all":
        return None
    if isinstance(expand, str) or not isinstance(expand, Sequence):
        message = f"expand: {expand!r} (must be 'all', or a list of addresses such as ['h.3'])"
        raise OptionError(message)
    for address in expand:
        if address not in addresses:
            near = ", ".join(map(repr, nearest(str(address), [name for name in addresses if name])))
            message = f"expand: there is no module {address!r}; the nearest: {near}"
            raise OptionError(message)
    return frozenset(expand)


def check_address(module: object) -> None:
    """Raise an `OptionError` unless ``module`` may be the address of a module, or is None."""
    if module is not None and not isinstance(module, str):
        message = f"module: {module!r} (must be the address of a module, or None)"
        raise OptionError(message)


def check_flags(**named: object) -> None:
    """Raise an `OptionError` unless each of these is True or False."""
    for name, value in named.items():
        check_flag(name, value)


def check_flag(option: str, value: object) -> None:
    """Raise an `OptionError` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        message = f"{option}: {value!r} (must be True or False)"
        raise OptionError(message)


def check_depth(depth: object) -> None:
    """Raise an `OptionError` unless ``depth`` is None or a whole number from 1."""
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 1):
        message = f"depth: {depth!r} (must be None, for all levels, or a whole number from 1)"
        raise OptionError(message)


NARROWEST = 30
"""The least width of a table, in characters."""


def check_width(width: object, option: str = "width") -> None:
    """Raise an `OptionError` unless ``width`` is a whole number from `NARROWEST`."""
    if type(width) is not int or width < NARROWEST:
        message = f"{option}: {width!r} (must be a whole number of characters from {NARROWEST})"
        raise OptionError(message)


def check_encoding(encoding: object) -> None:
    """Raise an `OptionError` unless ``encoding`` is None or Python knows it."""
    try:
        known = encoding is None or bool(codecs.lookup(encoding))  # type: ignore[arg-type]
    except (LookupError, TypeError, ValueError):
        known = False
    if not known:
        message = f"encoding: {encoding!r} (must be a name such as 'ascii' or 'cp1252', or None)"
        raise OptionError(message)


def nearest(key: str, candidates: Iterable[str], count: int = 5) -> list[str]:
    """Return the candidates most like ``key``, the best first; the first few where none is."""
    # Comparing takes the square of the length.
    key = key[:_COMPARED]
    pool = {name[:_COMPARED]: name for name in candidates}
    found = difflib.get_close_matches(key, _alike(key, pool), n=count, cutoff=0.4)
    return [pool[name] for name in found] or list(islice(pool.values(), count))


def _alike(key: str, pool: Collection[str]) -> Collection[str]:
    """Return the candidates worth a comparison, which takes long: those that share most pairs."""
    if len(pool) <= _MANY:
        return pool
    pairs = {key[at : at + 2] for at in range(max(len(key) - 1, 1))}
    shared: Counter[str] = Counter()
    for pair in pairs:
        shared.update(name for name in pool if pair in name)
    return nlargest(_MANY, shared, key=lambda name: shared[name] / (len(name) + len(key)))


_COMPARED, _MANY = 200, 200
