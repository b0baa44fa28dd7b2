"""What opscope needs of torch that torch promises nobody: probed once, as opscope is imported.

Nothing here goes by torch's version: a name is there or it is not, also in a build of
one's own. No other file has a private name of torch's: the rest of opscope knows these by the
names at the end, and of instances uses the attributes in `INSTANCES`. The first thing to look at
when a new torch comes out.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch

from opscope.errors import UnsupportedTorch

# Below `torch`, and what each is needed for.
NEEDED = {
    "utils._python_dispatch.TorchDispatchMode": "to see every op",
    "utils._python_dispatch.TorchDispatchMode.ignore_compile_internals": "to leave compilers alone",
    "utils._python_dispatch.TorchDispatchMode.supports_higher_order_operators": "to see cond",
    "utils._python_dispatch._get_current_dispatch_mode_stack": "to be left in any order",
    "utils._python_dispatch._pop_mode": "to be left in any order",
    "utils._python_dispatch._push_mode": "to be left in any order",
    "overrides._get_current_function_mode_stack": "to be left in any order",
    "overrides.TorchFunctionMode": "to see torch functions",
    "overrides._get_current_function_mode": "to step aside for fused kernels",
    "overrides._pop_mode": "to step aside for fused kernels",
    "overrides._push_mode": "to step aside for fused kernels",
    "overrides.has_torch_function": "to step aside for fused kernels",
    "overrides.handle_torch_function.__code__": "to blame warnings on the user's line",
    "nn.Module._call_impl.__code__": "to blame warnings on the user's line",
    "nn.modules.module._global_backward_hooks": "to blame warnings on the user's line",
    "nn.modules.module._global_backward_pre_hooks": "to blame warnings on the user's line",
    "nn.modules.module._has_any_global_hook": "to blame warnings on the user's line",
    "ScriptObject": "to count packed parameters",
    "nn.modules.module.register_module_forward_pre_hook": "to see modules",
    "nn.modules.module.register_module_forward_hook": "to see modules",
    "nn.modules.module._global_forward_pre_hooks": "to leave no hook behind",
    "nn.modules.module._global_forward_hooks": "to leave no hook behind",
    "nn.modules.module._global_forward_hooks_always_called": "to leave no hook behind",
    "nn.modules.module._global_module_registration_hooks": "to leave no hook behind",
    "nn.modules.module._global_parameter_registration_hooks": "to leave no hook behind",
    "nn.modules.module._global_buffer_registration_hooks": "to leave no hook behind",
    "nn.modules.module.register_module_module_registration_hook": "to see what modules are given",
    "compiler.is_compiling": "to leave compilers alone",
    # 2.10 is the first release that has all that is here, this and what `NODES` have.
    "_C._autograd.SavedTensor.data": "to tell what autograd keeps",
    "autograd._get_sequence_nr": "to link backward ops to forward ones",
    "_C._dispatch_tls_is_dispatch_key_excluded": "to tell what autograd keeps for itself",
    "_C.DispatchKey.ADInplaceOrView": "to tell what autograd keeps for itself",
    "autograd._make_grads.__code__": "to tell where a backward begins",
    "autograd.graph._engine_run_backward.__code__": "to tell where a backward begins",
    "autograd.Function.apply": "to tell what a custom function ran",
    "autograd.function.BackwardCFunction": "to tell custom functions",
    "_C._functions.AccumulateGrad": "to tell whose gradient is accumulated",
    "overrides.enable_reentrant_dispatch": "to copy tensors within autograd's graph",
    "_C._current_autograd_node": "to link backward ops to forward ones",
    "_C._current_graph_task_id": "to tell backward ops from forward ones",
    "_C._len_torch_function_stack": "to be unseen by other modes",
    "_C.DisableTorchFunction": "to be unseen by other modes",
    "_C._EnableTorchFunction": "to be unseen by other modes",
    "_C._DisableTorchDispatch": "to save tensors unseen",
    "utils._python_dispatch._disable_current_modes": "to save tensors unseen",
    "utils._python_dispatch.is_traceable_wrapper_subclass": "to save wrapper subclasses",
    "utils._python_dispatch._get_current_dispatch_mode": "to step aside for compiled regions",
    "_subclasses.fake_tensor.FakeTensor": "to tell fake tensors",
    "_C._DisableFuncTorch": "to see through torch.func",
    "_C._functorch.get_unwrapped": "to see through torch.func",
    "_C._functorch.is_functorch_wrapped_tensor": "to see through torch.func",
    "_C._get_dispatch_mode": "to leave exporters alone",
    "_C._TorchDispatchModeKey": "to leave exporters alone",
    "_C._len_torch_dispatch_stack": "to leave exporters alone",
    "_C._AutoDispatchBelowAutograd": "to replay",
    "_C._dynamo.eval_frame.set_code_exec_strategy": "to keep compilers out of opscope's code",
    "_C._dynamo.eval_frame._FrameExecStrategy": "to keep compilers out of opscope's code",
    "_C._dynamo.eval_frame._FrameAction.SKIP": "to keep compilers out of opscope's code",
    "_debug_has_internal_overlap": "to replay",
    "_ops.OpOverload": "to replay",
    "_ops.OpOverloadPacket": "to make programs",
    "_ops.HigherOrderOperator": "to count floating-point operations",
    "_C._set_grad_enabled": "to make programs",
    "_C._dispatch_has_kernel_for_dispatch_key": "to make programs",
    "fx.node.has_side_effect": "to make programs",
    "fx.Node._rename": "to make programs",
    "Tag.inplace_view": "to tell writes from views",
    "Tag.nondeterministic_seeded": "to replay random numbers",
}


# Of autograd's nodes, whose classes are made as they are needed.
NODES = {
    "_sequence_nr": "to link backward ops to forward ones",
    "next_functions": "to tell what autograd keeps",
    "_register_hook_dict": "to hear of gradients",
    "register_prehook": "to hear of gradients",
    "_raw_saved_self.data": "to tell what autograd keeps",
}


# Of instances: where they are, and what for.
INSTANCES = {
    "_buffers": "of a module, which `named_buffers` hands out at ten times the cost",
    "_modules": "of a module, likewise",
    "_parameters": "of a module, likewise",
    "_forward_hooks": "of a module: whether it has some of its own",
    "_forward_pre_hooks": "of a module, likewise",
    "_backward_hooks": "of a module, likewise; of a tensor that bears a hook for a node",
    "_backward_pre_hooks": "of a module, likewise",
    "_compiled_call_impl": "of a module: whether it was compiled in place",
    "_call_impl": "of the class of modules: the code that calls one",
    "_torchdynamo_orig_backend": "of a backend of torch.compile: what it stands for",
    "_version": "of a tensor: whether it was written",
    "_values": "of a nested tensor: all its rows",
    "_cdata": "of a storage: which it is",
    "_is_zerotensor": "of a tensor: whether it has no memory",
    "_sequence_nr": "of a node of autograd's",
    "_register_hook_dict": "of a node of autograd's",
    "_schema": "of an operator",
    "_overloadname": "of an operator",
    "_method_names": "of an object of C++",
    "_type": "of an object of C++",
    "_rename": "of a node of torch.fx",
}


def check_torch(found: Any = torch, node: Any = None) -> None:
    """Raise an `UnsupportedTorch` that says what this torch lacks, if it lacks anything.

    Args:
        found: The torch.
        node: A node of autograd's of it, of a product; None to make one.
    """
    missing = next((name for name in NEEDED if not _has(found, name)), None)
    if missing is not None:
        raise _lacks(found, f"torch.{missing}", NEEDED[missing])
    if node is None:
        with found.inference_mode(mode=False), found.enable_grad():
            factor = found.ones(1, requires_grad=True)
            node = (factor * factor).grad_fn
    missing = next((name for name in NODES if not _has(node, name)), None)
    if missing is not None:
        raise _lacks(found, f"`{missing}` of autograd's nodes", NODES[missing])


def _lacks(found: Any, what: str, purpose: str) -> UnsupportedTorch:
    message = (
        f"opscope cannot work with torch {getattr(found, '__version__', '?')}, which has no "
        f"{what}, needed {purpose} (torch 2.10 is the oldest that has all that it needs; it is "
        "tested with 2.13)"
    )
    return UnsupportedTorch(message)


def _has(found: Any, name: str) -> bool:
    try:
        attrgetter(name)(found)
    except AttributeError:
        return False
    return True


check_torch()

# ------------------------------------------------------------------ by the names used here
# What suspends something is a context manager; a count or a stack is of this thread.

_C: Any = torch._C
_dispatch: Any = torch.utils._python_dispatch
_modules: Any = torch.nn.modules.module
_autograd: Any = torch.autograd
_overrides: Any = torch.overrides

TorchDispatchMode = torch.utils._python_dispatch.TorchDispatchMode
DisableTorchFunction = _C.DisableTorchFunction
EnableTorchFunction = _C._EnableTorchFunction
DisableTorchDispatch = _C._DisableTorchDispatch
DisableFuncTorch = _C._DisableFuncTorch
AutoDispatchBelowAutograd = _C._AutoDispatchBelowAutograd
disable_current_modes = _dispatch._disable_current_modes

dispatch_modes = _dispatch  # the module, which has flags that say that one is on
dispatch_mode_stack = _dispatch._get_current_dispatch_mode_stack
current_dispatch_mode = _dispatch._get_current_dispatch_mode
count_dispatch_modes = _C._len_torch_dispatch_stack
push_dispatch_mode = _dispatch._push_mode
pop_dispatch_mode = _dispatch._pop_mode
DispatchModeKey = _C._TorchDispatchModeKey
dispatch_mode_of = _C._get_dispatch_mode
function_mode_stack = _overrides._get_current_function_mode_stack
current_function_mode = _overrides._get_current_function_mode
count_function_modes = _C._len_torch_function_stack
push_function_mode = _overrides._push_mode
pop_function_mode = _overrides._pop_mode

current_graph_task = _C._current_graph_task_id  # -1 outside of a backward
current_autograd_node = _C._current_autograd_node
next_sequence_number = _autograd._get_sequence_nr
set_grad_enabled = _C._set_grad_enabled
AccumulateGrad = _C._functions.AccumulateGrad
RUN_BACKWARD = _autograd.graph._engine_run_backward.__code__
MAKE_GRADIENTS = _autograd._make_grads.__code__  # of what a backward starts from

CALL_MODULE = torch.nn.Module._call_impl.__code__
has_any_global_hook = _modules._has_any_global_hook
FORWARD_PRE_HOOKS = _modules._global_forward_pre_hooks
FORWARD_HOOKS = _modules._global_forward_hooks
ALWAYS_CALLED_HOOKS = _modules._global_forward_hooks_always_called
BACKWARD_PRE_HOOKS = _modules._global_backward_pre_hooks
BACKWARD_HOOKS = _modules._global_backward_hooks
MODULE_REGISTRATION_HOOKS = _modules._global_module_registration_hooks
PARAMETER_REGISTRATION_HOOKS = _modules._global_parameter_registration_hooks
BUFFER_REGISTRATION_HOOKS = _modules._global_buffer_registration_hooks

OpOverload = torch._ops.OpOverload
OpOverloadPacket = torch._ops.OpOverloadPacket
HigherOrderOperator = torch._ops.HigherOrderOperator
FakeTensor = torch._subclasses.fake_tensor.FakeTensor
is_wrapper_subclass = torch.utils._python_dispatch.is_traceable_wrapper_subclass
is_functorch_wrapped = _C._functorch.is_functorch_wrapped_tensor
functorch_unwrapped = _C._functorch.get_unwrapped
has_internal_overlap = torch._debug_has_internal_overlap
has_kernel_for = _C._dispatch_has_kernel_for_dispatch_key
is_key_excluded = _C._dispatch_tls_is_dispatch_key_excluded
AD_IN_PLACE_OR_VIEW = _C.DispatchKey.ADInplaceOrView
set_code_strategy = _C._dynamo.eval_frame.set_code_exec_strategy
SKIP = _C._dynamo.eval_frame._FrameAction.SKIP
FrameStrategy = _C._dynamo.eval_frame._FrameExecStrategy
