"""Which of a publisher's files are in a folder."""

from pathlib import Path


def there(path: Path, *, needed: bool) -> bool:
    """Whether the file exists.

    Raises:
        ValueError: it does not, and is needed; the message lists what the folder holds.
    """
    if path.is_file():
        return True
    if needed:
        folder = path.parent
        held = sorted(each.name for each in folder.iterdir())[:8] if folder.is_dir() else []
        what = ", ".join(held) or ("nothing" if folder.is_dir() else "no such folder")
        raise ValueError(f"--annotations: expected the publisher's file {path.name} in {folder}, got {what}")
    return False
