"""Lets accelerate shard on CPU. Tests put this folder on PYTHONPATH of the processes they launch; nothing else uses it.

accelerate 1.15 ignores its FSDP and DeepSpeed plugins where processes run on CPU, without a word: such a run trains as DDP. This module changes two things,
when accelerate.state and deepspeed.comm.torch are imported:

1. After accelerate has made its state, a state of CPU processes (MULTI_CPU) whose launcher asked for FSDP or DeepSpeed is given that type and its plugin. All that
   follows is the libraries' own code: wrapping, sharding, gathering, reducing (by gloo), optimizer, saving and loading.
2. DeepSpeed does not compile its shared-memory kernel for CPU, which needs a compiler and a minute.

What a test that runs with it does not prove: NCCL and GPU kernels, mixed precision (float32 only), overlap and memory of real sizes, and that accelerate's own choice
of the strategy is right on a GPU. The last is checked in every run of the package: it reads accelerate's state and refuses a difference."""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def _asked(engine: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def shard_on_cpu(module: ModuleType) -> None:
    "Change 1."
    original = module.AcceleratorState.__init__

    def init(self: Any, *args: Any, deepspeed_plugin: Any = None, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, deepspeed_plugin=deepspeed_plugin, fsdp_plugin=fsdp_plugin, **kwargs)
        if self.distributed_type != module.DistributedType.MULTI_CPU:
            return
        if _asked("FSDP"):
            if fsdp_plugin is not None:
                self.fsdp_plugin = fsdp_plugin
            if "fsdp_plugin" in self.__dict__:
                self.distributed_type = module.DistributedType.FSDP
        elif _asked("DEEPSPEED"):
            if deepspeed_plugin is not None:
                _start_deepspeed(self, deepspeed_plugin)
            if self.__dict__.get("deepspeed_plugins") is not None:
                self.distributed_type = module.DistributedType.DEEPSPEED

    module.AcceleratorState.__init__ = init


def _start_deepspeed(state: Any, plugin: Any) -> None:
    "What accelerate does on a GPU when it is given DeepSpeed's plugin."
    from deepspeed import comm

    if not comm.is_initialized():
        comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    plugins = plugin if isinstance(plugin, dict) else {"default": plugin}
    for each in plugins.values():
        each.set_mixed_precision("no")
    next(iter(plugins.values())).select(_from_accelerator_state=True)
    state.deepspeed_plugins, state._mixed_precision = plugin, "no"


def no_shared_memory_kernel(module: ModuleType) -> None:
    "Change 2."
    module.build_shm_op = lambda: None


class _After(importlib.abc.MetaPathFinder):
    "Calls a function on a module once it is imported."

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self.name, self.change = name, change

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            self.change(module)

        spec.loader.exec_module = execute_and_change
        return spec


sys.meta_path[:0] = [_After("accelerate.state", shard_on_cpu), _After("deepspeed.comm.torch", no_shared_memory_kernel)]
