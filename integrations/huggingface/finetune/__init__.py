"""Fine-tuning of a chat model, with pictures or of text alone, on records of several tasks."""

# Beside the model: what the training was begun with.
SETTINGS_FILE = "cotbal_finetune.json"
