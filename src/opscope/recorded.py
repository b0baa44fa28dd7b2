"""A block that was traced: entering and leaving it, its records, and what was saved."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial, reduce
from operator import add
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload
from weakref import ref

from torch import nn

from opscope.analysis.nonfinite import locate
from opscope.capture.develop import develop
from opscope.capture.session import Session
from opscope.capture.transforms import SaveOptions
from opscope.errors import (
    AmbiguousLayer,
    LayerNotFound,
    NonFiniteError,
    NotSaved,
    OptionError,
    TraceStateError,
    check_flag,
)
from opscope.layer import Layer
from opscope.records.layers import LayerPass, layer_passes
from opscope.records.lookup import LayerIndex, Selection
from opscope.records.recording import (
    Failure,
    GradientFlow,
    Module,
    Op,
    Parameter,
    Recording,
)
from opscope.records.totals import Totals, totals
from opscope.saving import Key, Save, check_save, told

if TYPE_CHECKING:
    import networkx as nx
    from typing_extensions import Self

    from opscope.views.rows import BackwardOps


class Exit:
    """How a block is left.

    A ``with`` statement asks for it before it enters the block, and drops it last. An interrupt
    that comes as it is called, before anything is done, would leave the block entered for ever:
    where it is dropped without having been called, the block is left all the same.
    """

    @overload
    def __get__(self, trace: None, kind: type) -> Self: ...

    @overload
    def __get__(self, trace: Recorded, kind: type) -> Callable[..., None]: ...

    def __get__(self, trace: Recorded | None, kind: type) -> Self | Callable[..., None]:
        if trace is None:
            return self
        leave = partial(self, trace)
        if trace._state != "open":
            known = ref(trace)  # or the trace would hold itself

            def dropped(_: object) -> None:
                if (it := known()) is not None:
                    it._give_up()

            trace._if_dropped = ref(leave, dropped)
        return leave

    def __call__(
        self,
        trace: Recorded,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace_back: TracebackType | None,
    ) -> None:
        """Leave the block of a trace."""
        trace._leave(error, trace_back)
        trace._if_dropped = None


class Recorded:
    """The part of a `opscope.Trace` that is entered, holds the records and finds layers."""

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        layers: bool = True,
        save: Save = None,
        gradients: Save = None,
        options: SaveOptions | None = None,
        replayable: bool = False,
        saved_for_backward: bool = False,
        stop_on_nonfinite: bool = False,
    ) -> None:
        if model is not None and not isinstance(model, nn.Module):
            message = (
                f"model: {type(model).__name__} object (must be a torch.nn.Module or None; "
                "to trace a function, call it inside `with opscope.trace():`)"
            )
            raise OptionError(message)
        switches = {
            "layers": layers, "replayable": replayable, "saved_for_backward": saved_for_backward,
            "stop_on_nonfinite": stop_on_nonfinite,
        }  # fmt: skip
        for name, option in switches.items():
            check_flag(name, option)
        self._save = check_save(save)
        self._save_gradients = check_save(gradients, "gradients")
        if options is not None and not isinstance(options, SaveOptions):
            message = f"options: {options!r} (give them to opscope.trace by name)"
            raise OptionError(message)
        options = options or SaveOptions()
        if replayable and options != SaveOptions():
            message = "replayable=True saves every value as it is: no device, dtype or transform"
            raise OptionError(message)
        self._new_session: Callable[[], Session] | None = partial(
            Session,
            model,
            layers=layers,
            save=options if self._save != () else None,
            gradients=options if self._save_gradients != () else None,
            replayable=replayable,
            saved_for_backward=saved_for_backward,
            stop_on_nonfinite=stop_on_nonfinite,
        )
        self._session = self._new_session()
        self._state: Literal["new", "open", "closed"] = "new"
        self._was_interrupted = False  # as it was left
        self._if_dropped: object = None  # what sees to it that the block is left
        self._is_copy = False

    __exit__ = Exit()

    def __enter__(self) -> Self:
        if self._state == "open":
            message = "this trace is being recorded; leave its block before entering it again"
            raise TraceStateError(message)
        if self._is_copy:
            message = "a copy of a trace has no model to watch; enter the original, or a new trace"
            raise TraceStateError(message)
        for name in _WORKED_OUT.intersection(vars(self)):
            delattr(self, name)
        before = self._state
        try:
            self._session.start(sys._getframe(1))
            self._new_session = None  # nor the model
            self._state, self._was_interrupted = "open", False
            return self  # noqa: TRY300 (an interrupt may come here too)
        except BaseException:
            self._session.abandon()
            if self._new_session is not None:  # what was begun of the first is forgotten
                self._session = self._new_session()
            self._state = before
            raise

    def _give_up(self) -> None:
        """Leave the block without a word, if an interrupt kept it from being left."""
        if self._session.is_on and self._session.can_stop():
            self._session.abandon()
            self._state, self._was_interrupted = "closed", True

    def _leave(self, error: BaseException | None, trace_back: TracebackType | None) -> None:
        """End what `__enter__` began, whatever interrupts that."""
        if self._was_interrupted:
            self._was_interrupted = False
            self._session.finish()
            return
        if self._state != "open":
            message = "this trace is not being recorded: it is left once, after it was entered"
            raise TraceStateError(message)
        if not self._session.can_stop():
            if error is not None:
                return  # the exception says more than that the trace cannot be left
            message = "this trace was entered in another thread, and goes on until left there"
            raise TraceStateError(message)
        self._state, self._was_interrupted = "closed", True
        try:
            self._session.stop(error, trace_back)
        finally:
            self._session.finish()
        self._was_interrupted = False
        left = self._check_finite() if error is None else None
        for found in self._session.raised():
            locate(found, self.recording, self.passes)
        told = left or error
        if isinstance(told, NonFiniteError):
            known = self.recording.failure or Failure(type(told).__name__, "")
            failure = replace(known, message=str(told))
            self.__dict__["recording"] = replace(self.recording, failure=failure)
        if isinstance(self._save, tuple) and self._save:
            self._settle_payloads()
        if isinstance(self._save_gradients, tuple) and self._save_gradients:
            self._settle_gradients()
        if left is not None:
            raise left
        if error is None:
            self._check_keys()

    def _check_finite(self) -> NonFiniteError | None:
        """Return the error to raise if what the block left is bad."""
        finite = self._session.tape.finite
        if finite is None or not finite.has_left():
            return None
        return finite.left(self.recording, scaled=bool(self._session.scaler_places()))

    def __getstate__(self) -> dict[str, Any]:
        """Return the record and what was asked for: all that is pickled or copied.

        The tensors that were saved, and references to those of the model, stay with the
        original, and so does what needs them: activations, `validate` and `to_fx`.
        """
        return {
            "recording": replace(self.recording, gradient_flow=self._gradient_flow),
            "_save": self._save,
            "_save_gradients": self._save_gradients,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.__dict__.update(state)
        self._state, self._is_copy = "closed", True

    def _check_original(self) -> None:
        if self._is_copy:
            message = (
                "this trace was pickled or copied, which takes the record and no tensors; "
                "ask the original, or keep what you need of it"
            )
            raise NotSaved(message)

    # ---------------------------------------------------------------- what was recorded

    @cached_property
    def recording(self) -> Recording:
        """All that was recorded, as plain data.

        Raises:
            TraceStateError: Inside the block, or before it.
        """
        if self._state != "closed":
            when = "is still being recorded" if self._state == "open" else "was never entered"
            message = f"this trace {when}; read it after `with opscope.trace(...) as trace:`"
            raise TraceStateError(message)
        return develop(self._session)

    @cached_property
    def passes(self) -> tuple[LayerPass, ...]:
        """Every pass of every layer, as records, in the order of execution."""
        return layer_passes(self.recording)

    @property
    def ops(self) -> tuple[Op, ...]:
        """Every aten op, in the order of execution."""
        return self.recording.ops

    @property
    def modules(self) -> tuple[Module, ...]:
        """The model and every module below it."""
        return self.recording.modules

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The model's parameters and buffers when the block ended, a shared one once."""
        return tuple(item for item in self.recording.parameters if item.of_model)

    @property
    def failure(self) -> Failure | None:
        """What ended the block early, None if nothing did."""
        return self.recording.failure

    @cached_property
    def totals(self) -> Totals:
        """Counts and sizes of all that was computed, and of the model."""
        return totals(self.recording, self.passes)

    # ------------------------------------------------------------------------- layers

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every pass of every layer, in the order of execution."""
        return tuple(Layer(self, item) for item in self.passes)

    @property
    def layer_labels(self) -> list[str]:
        """Labels in the order of execution; with a list as ``save``, of the saved layers only."""
        if isinstance(self._save, tuple) and self._save:
            return [item.label for item in self._chosen.passes]
        return [item.label for item in self.passes]

    def __getitem__(self, key: Key) -> Layer:
        """Return a layer by its label, its module's address, its position or a substring.

        ``"conv2d_3_7"``, ``"conv2d_3"``, ``"conv2d_3_7:1"`` (the colon gives the pass),
        ``"features.6"`` (the layer that leaves that module), ``7`` and ``-17`` can all be
        the same layer.

        Raises:
            LayerNotFound: If nothing answers to the key; lists the nearest keys.
            AmbiguousLayer: If several layers, or several passes of one, do.
        """
        found = self._index.find(key)
        if not found.paths:
            return self.layers[found.index]
        return self._given_by_modules.setdefault((found.label, found.values), Layer(self, found))

    def __contains__(self, key: object) -> bool:
        """Whether anything answers to a key: one layer, or several that it does not tell apart."""
        if isinstance(key, Layer):
            return any(layer is key for layer in self.layers)
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            return False
        try:
            self._index.find(key)
        except AmbiguousLayer:
            return True
        except LayerNotFound:
            return False
        return True

    def __len__(self) -> int:
        return len(self.passes)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    @cached_property
    def _given_by_modules(self) -> dict[tuple[str, tuple[int, ...]], Layer]:
        """What modules gave and no layer gave just so, as far as it was asked for."""
        return {}

    @cached_property
    def _index(self) -> LayerIndex:
        return LayerIndex(self.recording, self.passes)

    def _neighbours(
        self, record: LayerPass, side: Literal["parents", "children"]
    ) -> tuple[Layer, ...]:
        graph = self._layer_graph
        inside = {record.label: None}
        if record.kind == "module" and record.module_call is not None:
            calls = self.recording.module_calls[record.module_call].layer_calls
            inside = {item.label: None for item in self.passes if item.call in calls}
        near = graph.pred if side == "parents" else graph.succ
        found = {
            str(label): None
            for member in inside
            if member in graph
            for label in near[member]
            if label not in inside and graph.nodes[label]["layer"]
        }
        return tuple(self[label] for label in found)

    # -------------------------------------------------------------------- activations

    @cached_property
    def _chosen(self) -> Selection:
        """What activations were asked for."""
        return self._index.select(() if self._save == "all" else self._save)

    @cached_property
    def _chosen_gradients(self) -> Selection:
        """Whose gradients were asked for."""
        return self._index.select(() if self._save_gradients == "all" else self._save_gradients)

    def _check_keys(self) -> None:
        """Raise a `LayerNotFound` if something was asked for that is not there."""
        unknown: dict[str, None] = {}
        if isinstance(self._save, tuple) and self._save:
            unknown |= dict.fromkeys(self._chosen.unknown)
        if isinstance(self._save_gradients, tuple) and self._save_gradients:
            unknown |= dict.fromkeys(self._chosen_gradients.unknown)
        if unknown:
            raise LayerNotFound("; ".join(unknown))

    def _settle_payloads(self) -> None:
        """Let go of what was kept in case it should be asked for and was not."""
        payloads = self._session.tape.payloads
        wanted = self._save != "all" and payloads is not None
        if wanted and payloads is not None and not (payloads.settled or payloads.every_op):
            payloads.retain(self._chosen.values)

    def _is_saved(self, record: LayerPass) -> bool:
        if not self._save or self._save == "all":
            return bool(self._save)
        return self._chosen.values.issuperset(record.values) and (
            bool(record.values) or record in self._chosen.passes
        )

    def _activation(self, record: LayerPass) -> Any:
        self._check_original()
        payloads = self._session.tape.payloads
        if payloads is None or not self._is_saved(record):
            message = (
                f"the activation of {record.label} was not saved; trace with save='all' "
                f"or save=[{record.layer_label!r}]"
            )
            raise NotSaved(message)
        self._settle_payloads()
        kept = [payloads.find(value) for value in record.values]
        if record.kind == "input" and record.call is None and kept == [None]:
            return self._given_to_program(record)
        if any(one is None for one in kept):
            message = (
                f"the activation of {record.label} was saved, but its memory was freed, or "
                "written after the block; read it before, or save with transform=torch.clone"
            )
            raise NotSaved(message)
        what = f"the activation of {record.label}"
        found = tuple(told(one.value, what) for one in kept if one is not None)
        return found[0] if len(found) == 1 else found

    def _given_to_program(self, record: LayerPass) -> Any:
        """Return what a program was given that is no module's, and of which no call tells."""
        values = self._session.tape.values
        tensor = None if values.originals is None else values.outside(*record.values)
        if tensor is None:
            message = (
                f"{record.label} is what a program without a model was given, which is not saved "
                "unless it was traced with replayable=True"
            )
            raise NotSaved(message)
        return tensor

    # ---------------------------------------------------------------------- gradients

    def _settle_gradients(self) -> None:
        """Let go of gradients that were kept in case they should be asked for and were not."""
        table = self._session.gradients
        if table is not None:
            table.retain(self._chosen_gradients.values)

    def _gradients(self, record: LayerPass) -> list[tuple[Any, ...]]:
        """Return per tensor that a layer gave the gradients that reached it."""
        self._check_original()
        table = self._session.gradients
        everything = self._save_gradients == "all"
        wanted = everything or self._chosen_gradients.values.issuperset(record.values)
        if table is None or not wanted:
            message = (
                f"the gradient of {record.label} was not asked for; trace with "
                f"gradients='all' or gradients=[{record.layer_label!r}]"
            )
            raise NotSaved(message)
        what = f"the gradient of {record.label}"
        return [tuple(told(one, what) for one in table.get(value)) for value in record.values]

    def _gradient(self, record: LayerPass) -> Any:
        found = [reduce(add, kept) if kept else None for kept in self._gradients(record)]
        if all(gradient is None for gradient in found):
            message = (
                f"no gradient has reached {record.label}: it needs none, or no backward ran "
                "from what depends on it"
            )
            raise NotSaved(message)
        return found[0] if len(found) == 1 else tuple(found)

    @property
    def _gradient_flow(self) -> GradientFlow:
        table = self._session.gradients
        return self.recording.gradient_flow if table is None else table.flow()

    def _has_gradient(self, record: LayerPass) -> bool:
        return not self._gradient_flow.reached.isdisjoint(record.values)

    def _flows(self) -> set[tuple[str, str]]:
        """Return the labels of layers between which gradients flowed, see `with_gradients`."""
        flow = self._gradient_flow
        if not flow.reached:
            return set()
        layers = (item for item in self.passes if item.call is not None or item.kind == "input")
        labels = {value: item.label for item in layers for value in item.values}
        pairs = {(a, b) for a, b in flow.pairs if a in labels and b in labels}
        pairs.update((value, value) for value in flow.reached if value in labels)
        return {(labels[a], labels[b]) for a, b in pairs}

    def _backward_ops(self, record: LayerPass) -> tuple[Op, ...]:
        if record.kind == "module":
            return tuple(self._ops_of_backward.of_run.get(record.module_call or 0, ()))
        if record.call is None:
            return ()
        return tuple(self._ops_of_backward.of_call.get(record.call, ()))

    @cached_property
    def _ops_of_backward(self) -> BackwardOps:
        from opscope.views.rows import BackwardOps

        return BackwardOps(self.recording)

    # --------------------------------------------------------------- the graphs behind views

    @cached_property
    def _op_graph(self) -> nx.DiGraph:
        from opscope.graph.build import op_graph

        return op_graph(self.recording, self.passes)

    @cached_property
    def _layer_graph(self) -> nx.DiGraph:
        from opscope.views.levels import at_level
        from opscope.views.select import by_data, in_phase

        return at_level(in_phase(by_data(self._op_graph), "forward"), "layer")


_WORKED_OUT = frozenset(
    name for name, item in vars(Recorded).items() if isinstance(item, cached_property)
)
