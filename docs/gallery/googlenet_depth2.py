"""GoogLeNet, modules deeper than 2 as one node."""

import torch
from models import vision

import opscope

model, image = vision("googlenet", aux_logits=False, init_weights=False)
with torch.no_grad(), opscope.trace(model) as trace:
    model(image)
trace.draw("googlenet_depth2.svg", depth=2)
