"""A two-layer LSTM."""

import torch
from torch import nn

import opscope

model, x = nn.LSTM(8, 16, num_layers=2), torch.rand(5, 1, 8)
with opscope.trace(model) as trace:
    model(x)
trace.draw("lstm.svg", parameters=True)
