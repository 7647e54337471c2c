"""Teaching video models to say when.

The names below are what most people want. Each is imported when it is asked for, so `import vtg_r1` stays light; all but the two of `models` need numpy alone.
Everything else stands in their part: `from vtg_r1.ground import ground`.
"""

from importlib import import_module

__version__ = "0.1.0"

_PARTS = {  # part → its names that are shown here; never a part's own name, which importing that part would put in its place
    "core.spans": ("tiou",),
    "core.samples": ("Sample", "read_samples"),
    "core.prompts": ("grounding_prompt", "parse_span", "parse_spans"),
    "rewards": ("tiou_reward", "format_reward", "paper_reward"),
    "core.metrics": ("grounding_metrics",),
    "data.readers": ("read_dataset",),
    "data.official_benchmarks": ("load_benchmark", "read_predictions", "score"),
    "models.loading": ("load_model", "load_processor"),
}
_OF = {name: part for part, names in _PARTS.items() for name in names}
__all__ = ["__version__", *_OF]


def __getattr__(name: str):
    "A name of the list above, from its part."
    if name not in _OF:
        raise AttributeError(
            f"module 'vtg_r1' has no attribute {name!r}; it shows {', '.join(_OF)}, and everything else stands in its part, e.g. vtg_r1.ground"
        )
    return getattr(import_module(f".{_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
