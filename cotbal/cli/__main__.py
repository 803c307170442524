"""`python -m cotbal.cli` is `cotbal`."""

from cotbal.cli import main

if __name__ == "__main__":
    main()
