"""Lets vLLM's build for CPU and PyPI's torchvision be in one environment. `make engines` puts this folder on PYTHONPATH of the vLLM part; nothing else uses it.

1. PyPI's torchvision is built for CUDA's torch. Beside torch for CPU its operators cannot be loaded, and its import fails on the declaration of two of them. They
   are declared here, without code; image processors use neither.
2. vLLM gets settings for a small CPU: no compilation, one process for engine and caller, one GiB of cache.
3. Where SHIM_PLAIN_LINEAR is set, for the test of `colocate`: vLLM for CPU packs the weights of linear layers into oneDNN's form after loading, and removes the
   parameters, so that no weights can be sent to it any more (`'Parameter' object has no attribute 'weight_loader'`). With this change the parameters stay, and torch
   multiplies by them. vLLM for CUDA keeps its parameters by itself.
4. Where SHIM_OLD_WEIGHTS is set, the control of that test: what is sent to Qwen2.5-VL after it was loaded is dropped.

What tests with it do not prove: the wheel for CUDA, its kernels, bfloat16, several GPUs."""

import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
LIBRARIES: list[Any] = []  # torch forgets a declaration whose library is collected


def declare_operators(torch: ModuleType) -> None:
    "Change 1."
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARIES.append(library)


def no_compilation(module: ModuleType) -> None:
    "Change 2."
    original = module.LLM.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{"enforce_eager": True, **kwargs})

    module.LLM.__init__ = init


def plain_linear(module: ModuleType) -> None:
    "Change 3."

    def keep_weight(layer: Any, remove_weight: bool) -> None:
        from torch.nn.functional import linear

        layer.cpu_linear = linear

    module.dispatch_cpu_unquantized_gemm = keep_weight


def old_weights(module: ModuleType) -> None:
    "Change 4."
    model_class = module.Qwen2_5_VLForConditionalGeneration
    load = model_class.load_weights

    def load_once(self: Any, weights: Any) -> Any:
        weights = list(weights)
        if len(weights) > 1:
            return load(self, weights)
        return {name for name, _ in weights}

    model_class.load_weights = load_once


class _After(importlib.abc.MetaPathFinder):
    "Calls a function on a module once it is imported; on torch before torchvision is."

    def __init__(self, name: str, change: Any, first: str = "") -> None:
        self.name, self.change, self.first = name, change, first

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        if self.first:
            self.change(importlib.import_module(self.first))
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            self.change(module)

        spec.loader.exec_module = execute_and_change
        return spec


sys.meta_path[:0] = [_After("torchvision", declare_operators, first="torch"), _After("vllm.entrypoints.llm", no_compilation)]
if os.environ.get("SHIM_PLAIN_LINEAR"):
    sys.meta_path.insert(0, _After("vllm.model_executor.layers.utils", plain_linear))
if os.environ.get("SHIM_OLD_WEIGHTS"):
    sys.meta_path.insert(0, _After("vllm.model_executor.models.qwen2_5_vl", old_weights))
