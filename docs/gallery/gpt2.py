"""One block of GPT-2, every layer."""

import torch
from models import gpt2

import opscope

model, tokens = gpt2()
with torch.no_grad(), opscope.trace(model) as trace:
    model(tokens)
trace.draw("gpt2.svg", depth=3)
