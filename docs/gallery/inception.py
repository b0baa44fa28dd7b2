"""One inception module of GoogLeNet, every layer."""

import torch
from models import vision

import opscope

model, image = vision("googlenet", aux_logits=False, init_weights=False)
with torch.no_grad(), opscope.trace(model) as trace:
    model(image)
trace.draw("inception.svg", module="inception3a")
