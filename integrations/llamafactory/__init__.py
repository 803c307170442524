"""LLaMA-Factory: its own supervised fine-tuning with one weight per dataset, exact over each step."""
