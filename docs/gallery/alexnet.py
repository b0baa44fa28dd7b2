"""AlexNet, every layer."""

import torch
from models import vision

import opscope

model, image = vision("alexnet")
with torch.no_grad(), opscope.trace(model) as trace:
    model(image)
trace.draw("alexnet.svg")
