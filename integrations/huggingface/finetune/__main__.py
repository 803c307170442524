"""`python -m cotbal.integrations.huggingface.finetune`."""

from cotbal.integrations.huggingface.finetune.entry import main

if __name__ == "__main__":
    raise SystemExit(main())
