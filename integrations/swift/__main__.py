"""`python -m cotbal.integrations.swift` prints the path of the plugin, for `swift sft --external_plugins`."""

from pathlib import Path

print(Path(__file__).with_name("cotbal_plugin.py"))
