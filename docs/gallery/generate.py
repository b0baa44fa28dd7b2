"""GPT-2 writing eight tokens with its cache: one graph, each layer with eight passes."""

import torch
from models import gpt2

import opscope

model, tokens = gpt2()
with torch.no_grad(), opscope.trace(model) as trace:
    model.generate(tokens, max_new_tokens=8, do_sample=False, pad_token_id=0)
trace.draw("generate.svg", rolled=True, depth=2, module="")
