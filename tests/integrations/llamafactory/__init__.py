"""LLaMA-Factory's own training, by the real package, which `make test-llamafactory` installs."""

from importlib.util import find_spec

IS_INSTALLED = find_spec("llamafactory") is not None
