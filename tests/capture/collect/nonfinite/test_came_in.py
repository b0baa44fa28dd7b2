"""What a tensor is that came in, and what a model calls its inputs."""

import pytest
import torch
from torch import nn

import opscope
from opscope.capture.collect.nonfinite.came_in import CameIn, input_name


def forward(x, batch=None, *rest, scale=1):
    pass


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", "x"), ("0", "x"), ("0.mask", "x.mask"), ("1", "batch"), ("1.0.ids", "batch.0.ids"),
        ("scale", "scale"), ("scale.a", "scale.a"), ("2", "2"), ("past.0", "past.0"),
    ],
)  # fmt: skip
def test_an_input_is_called_as_the_parameter_of_forward_is(path, name):
    assert input_name(path, forward) == name


def test_without_a_signature_its_place_is_its_name():
    assert input_name("", None) == "0"
    assert input_name("1", print) == "1"
    assert input_name("", dict.get) in ("0", "self")


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(2, 2)
        self.register_buffer("mask", torch.ones(2))

    def forward(self, x, extra):
        self.seen = {
            "the weight": self.lin.weight, "a view of it": self.lin.weight.t(),
            "its data": self.lin.weight.data, "a buffer": self.mask, "x": x, "a part of it": x[0],
            "in a dictionary": extra["y"], "data": torch.tensor([1.0]), "empty": torch.empty(2),
        }  # fmt: skip
        for tensor in self.seen.values():
            tensor + 1
        return self.lin(x)


def test_tensors_are_what_they_came_in_as():
    model = Model()
    with opscope.trace(model, stop_on_nonfinite=True) as trace:
        model(torch.ones(1, 2), {"y": torch.ones(2)})
        came_in = CameIn(trace._block.session.tables)
        came_in.model = lambda: model
        found = {name: came_in.arrival(tensor)[:2] for name, tensor in model.seen.items()}
        whole = came_in.arrival(model.seen["a view of it"]).text
    assert found == {
        "the weight": ("parameter", "lin.weight"),
        "a view of it": ("parameter", "lin.weight"),
        "its data": ("parameter", "lin.weight"),
        "a buffer": ("buffer", "mask"),
        "x": ("input", "x"),
        "a part of it": ("input", "x"),
        "in a dictionary": ("input", "extra.y"),
        "data": ("data", None),
        "empty": ("memory", None),
    }
    assert whole.startswith("float32[2, 2] from ")
    assert came_in.arrival(torch.ones(1)) == ("data", None, None, "", None)
