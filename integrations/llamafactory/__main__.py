"""`python -m cotbal.integrations.llamafactory train my.yaml`, in place of `llamafactory-cli`."""

from cotbal._ending import ends
from cotbal.integrations.llamafactory.entry import main

if __name__ == "__main__":
    ends(main)
