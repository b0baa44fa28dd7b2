"""An encoder beside one whose second layer has another eps: what differs first, and what follows."""

import copy

import torch
from torch import nn

import opscope

torch.manual_seed(0)
model = nn.TransformerEncoder(
    nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
).eval()
other = copy.deepcopy(model)
other.layers[1].norm1.eps = 1e-3
x = torch.rand(2, 5, 16)
records = []
for each in (model, other):
    with opscope.trace(each, save="all") as trace:
        each(x)
    records.append(trace)
marks = opscope.compare(*records).marks("b")
records[1].draw("difference.svg", depth=2, marks=marks)
