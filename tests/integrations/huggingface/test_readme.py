"""The run that README offers."""

import re
import subprocess
import sys
from pathlib import Path

from cotbal.integrations import huggingface


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
