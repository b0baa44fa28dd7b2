"""Memory over two steps of training a ResNet-18, by category."""

import torch

import opscope
from opscope.demo import ResNet18

torch.manual_seed(0)
model, images = ResNet18(), torch.rand(8, 3, 128, 128)
optimizer = torch.optim.AdamW(model.parameters())
with opscope.trace(model, memory=True) as trace:
    for _ in range(2):
        optimizer.zero_grad()
        model(images).sum().backward()
        optimizer.step()
trace.memory.draw("memory.svg")
