"""The run that README offers, and what its install line brings."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from cotbal.integrations import huggingface

ROOT = Path(__file__).parents[3]


def test_the_readmes_run(tmp_path: Path) -> None:
    text = (Path(huggingface.__file__).parent / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    # On whatever device there is; here it is to be a CPU.
    program = program.replace('TrainingArguments("out"', 'TrainingArguments("out", use_cpu=True')
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "task_loss/VQAv2" in result.stdout
    assert "\nlinear " in result.stdout, "the level of a plain Llama"


def test_its_extra_brings_what_its_commands_import_at_once() -> None:
    (extra,) = re.findall(r"^hf = (.*)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    names: set[str] = set()
    for folder in ("huggingface", "answering"):
        for path in (ROOT / "integrations" / folder).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ImportFrom):
                    names.add(str(node.module).split(".")[0])
                elif isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
    # Its distribution is called otherwise, or comes with another's.
    called = {"PIL": "pillow", "tqdm": "transformers", "huggingface_hub": "transformers"}
    others = names - sys.stdlib_module_names - {"torch", "cotbal", "csrc_triton"}
    assert {"PIL", "transformers"} <= others
    assert [name for name in sorted(others) if f'"{called.get(name, name)}>=' not in extra] == []
