"""Fine-tuning of a chat model, with pictures or of text alone, on records of several tasks."""
