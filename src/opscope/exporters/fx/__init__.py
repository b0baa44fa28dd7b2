"""The record, or a module's part of it, as a `torch.fx.GraphModule` of operator overloads."""
