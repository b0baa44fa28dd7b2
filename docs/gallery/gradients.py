"""Where the gradient flowed: blue, and not into the branch that is detached."""

import torch
from torch import nn
from torch.nn.functional import mse_loss

import opscope


class Predictor(nn.Module):
    """Predicts its own target, whose branch is cut off as in BYOL and SimSiam."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True))
        self.project = nn.Linear(16, 16)
        self.predict = nn.Linear(16, 16)

    def forward(self, x):
        hidden = self.encode(x)
        target = self.project(hidden).detach()
        return mse_loss(self.predict(hidden) + hidden, target)


model, x = Predictor(), torch.rand(4, 8)
with opscope.trace(model, gradients="all") as trace:
    loss = model(x)
loss.backward()
trace.draw("gradients.svg")
