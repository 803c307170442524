"""Which packages are installed, and whether they are new enough for cotbal."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

import torch

# What training code brings; the least versions are those that cotbal itself declares.
NAMES = (
    "torch",
    "triton",
    "transformers",
    "accelerate",
    "peft",
    "bitsandbytes",
    "trl",
    "deepspeed",
    "flash-attn",
)
# The repository's own name, and that of its upload to PyPI.
_LLAVA = ("llava", "llava-torch")
_LLAVA_TRANSFORMERS = "4.37.2"
# What its code was written for is older than what cotbal's other adapters need.
_OF_LLAVA = ("transformers", "accelerate", "peft")


@dataclass(frozen=True)
class Package:
    """One package of this environment.

    Attributes:
        name: its name on PyPI.
        installed: its version, None where it is absent.
        least: the least version that cotbal works with, None where any does.
        problem: what to do, empty where nothing is wrong. A package that is absent is no problem.
    """

    name: str
    installed: str | None
    least: str | None
    problem: str = ""


def packages() -> list[Package]:
    """The packages that matter to training with cotbal, and LLaVA where it is installed."""
    least = least_versions(_requirements("cotbal"))
    found = [_package(name, _version(name), least.get(name)) for name in NAMES]
    return [*found, *_llava(least)]


def devices() -> list[str]:
    """The devices that torch sees, in words."""
    if not torch.cuda.is_available():
        return [f"CPU, {torch.get_num_threads()} threads of torch"]
    return [_cuda(index) for index in range(torch.cuda.device_count())]


def least_versions(requirements: Iterable[str]) -> dict[str, str]:
    """The least version by package of `name>=version; ...` lines; the lowest where extras differ."""
    least: dict[str, str] = {}
    for line in requirements:
        if found := re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", line):
            name, bound = found.groups()
            least[name] = min(least.get(name, bound), bound, key=_numbers)
    return least


def _package(name: str, installed: str | None, least: str | None) -> Package:
    problem = ""
    of_llava = _llava_version() is not None and _version("transformers") == _LLAVA_TRANSFORMERS
    if installed and least and _numbers(installed) < _numbers(least) and not (of_llava and name in _OF_LLAVA):
        problem = f'{name} {least} or newer is needed: pip install --upgrade "{name}>={least}"'
    return Package(name, installed, least, problem)


def _llava(least: dict[str, str]) -> list[Package]:
    """LLaVA pins a torch that is too old for cotbal, and the transformers that its code was written for."""
    installed = _llava_version()
    if installed is None:
        return []
    problem, torch_version = "", _version("torch") or torch.__version__
    if _numbers(torch_version) < _numbers(least.get("torch", "2.4")):
        problem = (
            "LLaVA's pin torch==2.1.2 is too old for cotbal: upgrade torch first, reinstall flash-attn for "
            "it, and install LLaVA with --no-deps"
        )
    elif _version("transformers") != _LLAVA_TRANSFORMERS:
        problem = (
            f"LLaVA's own code needs transformers {_LLAVA_TRANSFORMERS}: pip install \"transformers=="
            f'{_LLAVA_TRANSFORMERS}", in an environment of its own'
        )
    return [Package("llava", installed, None, problem)]


def _llava_version() -> str | None:
    return next((found for name in _LLAVA if (found := _version(name)) is not None), None)


def _cuda(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    capability = f"{properties.major}.{properties.minor}"
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability {capability}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _requirements(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:  # a checkout that is not installed
        return []


def _numbers(text: str) -> tuple[int, ...]:
    """2.13.0+cpu is (2, 13, 0)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()
