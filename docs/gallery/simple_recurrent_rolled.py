"""The article's recurrent model, its passes folded."""

import torch
from models import SimpleRecurrent

import opscope

model, x = SimpleRecurrent(), torch.rand(6, 5)
with opscope.trace(model) as trace:
    model(x)
trace.draw("simple_recurrent_rolled.svg", rolled=True)
