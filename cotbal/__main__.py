"""`python -m cotbal` is `cotbal`."""

from cotbal.cli import main

if __name__ == "__main__":
    main()
