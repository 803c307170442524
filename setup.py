"""Maps the folder `integrations/` to the package `cotbal.integrations`; all else is in pyproject.toml."""

from setuptools import find_packages, setup

adapters = ["cotbal.integrations", *(f"cotbal.integrations.{name}" for name in find_packages("integrations"))]
setup(
    packages=find_packages(include=["cotbal", "cotbal.*", "csrc_triton", "csrc_triton.*"]) + adapters,
    package_dir={"cotbal.integrations": "integrations"},
)
