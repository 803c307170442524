"""ms-swift's own training with the plugin. Its versions are another world: `make test-swift` makes theirs."""

from importlib.util import find_spec

IS_INSTALLED = find_spec("swift") is not None
