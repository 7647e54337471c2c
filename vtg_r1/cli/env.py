"`vtg-r1 env`: versions and machine, for a bug report."

import os
import platform
from pathlib import Path
from typing import Any

from .. import __version__
from .common import AsJson, command, print_json, quiet_libraries

OPTIONAL = ("gradio", "openai", "vllm", "deepspeed", "bitsandbytes", "flash-attn", "liger-kernel", "trackio", "pandas", "nbdev")
PREFIXES = ("VTG_R1_", "HF_", "TRANSFORMERS_", "CUDA_", "NCCL_", "OMP_")


@command(
    "env",
    "vtg-r1 env",
    "vtg-r1 env --json > env.json",
)
def env(as_json: AsJson = False) -> int:
    "Print versions, processor, memory and devices, which a bug report needs; no name, path or key."
    quiet_libraries()
    import torch

    from ..runs.run import PACKAGES, package_version

    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    devices = [f"{device.name}, {device.total_memory / 1e9:.0f} GB" for device in properties]
    versions = {name: package_version(name) for name in (*PACKAGES, *OPTIONAL)}
    packages = {name: version for name, version in versions.items() if version or name in PACKAGES}
    variables = sorted(name for name in os.environ if name.startswith(PREFIXES) and "TOKEN" not in name and "KEY" not in name)
    machine: dict[str, Any] = {
        "vtg_r1": __version__,
        "commit": own_commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{platform.machine()}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores",
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "cuda": torch.version.cuda,
    }
    if as_json:
        print_json({**machine, "devices": devices, "packages": packages, "set": variables})
        return 0
    numbered = {f"device {number}": device for number, device in enumerate(devices)}
    absent = {"commit": "none, no checkout", "cuda": "none", "set": "none"}
    for name, value in {**machine, **numbered, **packages, "set": ", ".join(variables)}.items():
        print(f"{name:<16}{value or absent.get(name, 'not installed')}")
    return 0


def own_commit() -> str | None:
    "The checkout's commit; an installed package may be in another project's repository and has none."
    from ..runs.run import git_state

    package = Path(__file__).resolve().parents[1]
    settings = package.parent / "settings.ini"
    if settings.is_file() and "lib_name = vtg_r1" in settings.read_text(encoding="utf-8", errors="replace").splitlines():
        return str(git_state(package)["commit"] or "") or None
    return None
