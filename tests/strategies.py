"""Random small recordings."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from tests.builders import Sketch

# Two busy cores are slow at times, which is no failure.
settings.register_profile("opscope", deadline=None, max_examples=60)
settings.load_profile("opscope")

_STEPS = st.one_of(
    st.tuples(st.just("enter"), st.sampled_from("ab")),
    st.tuples(st.just("leave")),
    st.tuples(
        st.just("call"),
        st.sampled_from(["relu", "add", "cat"]),
        st.sampled_from(["fresh", "fresh", "view", "write"]),
        st.lists(st.integers(0, 99), min_size=1, max_size=3),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
    st.tuples(st.just("parameter"), st.sampled_from(["parameter", "buffer"])),
    st.tuples(st.just("backward"), st.integers(0, 99)),
)


@st.composite
def recordings(draw):
    """Draw a program of nested modules that run several times, loops, views and writes."""
    sketch = Sketch("Random")
    known = [sketch.outside()]
    if draw(st.booleans()):
        known.append(sketch.pass_through("input", known[0]))
    steps = iter(draw(st.lists(_STEPS, max_size=20)))
    with sketch.module("", "Random", known[-1]):
        _run(sketch, steps, known, ())
    if draw(st.booleans()):
        sketch.pass_through("output", known[-1])
    return sketch.build()


def _run(sketch, steps, known, path):
    for name, *details in steps:
        if name == "leave" and path:
            return
        if name == "enter" and len(path) < 3:
            inner = (*path, details[0])
            with sketch.module(".".join(inner), "Block", known[-1]):
                _run(sketch, steps, known, inner)
        elif name == "call":
            function, makes, picks, ops, line = details
            given = [known[pick % len(known)] for pick in picks]
            if ops:
                place = (path, line)
                known.append(sketch.call(function, *given, ops=ops, makes=makes, call_site=place))
            else:
                known.append(sketch.pass_through("identity", given[0]))
        elif name == "parameter":
            address = ".".join((*path, f"p{len(sketch.parameters)}"))
            known.append(sketch.parameter(address, 2, 3, kind=details[0]))
        elif name == "backward":
            known.append(sketch.backward("neg", known[details[0] % len(known)]))
