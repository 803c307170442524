"""`python -m cotbal.integrations.huggingface.finetune` on tiny models and real pictures' files."""
