"""Teaching video models to say when.

The names below are what most people want. Each is imported when it is used for the first time, so `import vtg_r1` is fast; all but the two of `models` work without torch.
Everything else is imported from its module: `from vtg_r1.models.ground import ground`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_MODULE_OF = {
    "tiou": "core.spans",
    "Sample": "core.samples",
    "read_samples": "core.samples",
    "grounding_prompt": "core.prompts",
    "parse_span": "core.prompts",
    "parse_spans": "core.prompts",
    "tiou_reward": "rewards",
    "format_reward": "rewards",
    "paper_reward": "rewards",
    "grounding_metrics": "core.metrics",
    "read_dataset": "data.readers",
    "load_benchmark": "data.official_benchmarks",
    "read_predictions": "data.predictions",
    "score": "data.official_benchmarks",
    "load_model": "models.loading",
    "load_processor": "models.loading",
}
__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    "Import one of the names above from its module."
    if name not in _MODULE_OF:
        raise AttributeError(
            f"module 'vtg_r1' has no attribute {name!r}; it has {', '.join(_MODULE_OF)}, and other names are in its modules, e.g. vtg_r1.models.ground"
        )
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
