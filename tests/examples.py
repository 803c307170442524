"""The examples in docstrings, as tests."""

import doctest
from typing import Any


def check_examples(documented: Any) -> None:
    """Runs the examples of a class or function and its methods; there must be one."""
    examples = doctest.DocTestFinder().find(documented, documented.__name__)
    assert sum(len(example.examples) for example in examples) > 0, f"{documented.__name__} has no example"
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    assert runner.failures == 0
