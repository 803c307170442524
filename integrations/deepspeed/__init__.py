"""Configurations for `TrainingArguments(deepspeed=...)`: `zero2.json` and `zero3.json` in this folder."""
