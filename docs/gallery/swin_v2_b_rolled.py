"""Swin Transformer V2-B, rolled, blocks as one node."""

import torch
from models import vision

import opscope

model, image = vision("swin_v2_b", 256)
with torch.no_grad(), opscope.trace(model) as trace:
    model(image)
trace.draw("swin_v2_b_rolled.svg", rolled=True, depth=3)
