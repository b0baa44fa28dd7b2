"""The table of a ResNet-18, as a terminal shows it."""

import torch
from rich.console import Console

import opscope
from opscope.demo import ResNet18

model, image = ResNet18().eval(), torch.rand(1, 3, 224, 224)
with torch.no_grad(), opscope.trace(model) as trace:
    model(image)
console = Console(record=True, width=84)
console.print(trace.summary(depth=2))
console.save_svg("summary.svg", title="opscope")
