"""Fields of a publisher's record, checked."""

from cotbal.collect.records import Record
from cotbal.files import is_utf8


def filled(record: Record, name: str) -> str:
    """A text of the record, less white space at its ends.

    Raises:
        ValueError: it is none, is empty, cannot be written in UTF-8, or holds `<image>`, which models take
            for a picture; file, record and field are named.
    """
    text = record.text(name).strip()
    if not text:
        raise record.error(name, "a text that is not empty")
    return checked(record, name, text)


def checked(record: Record, name: str, text: str) -> str:
    """The text itself, if it can be written and holds no `<image>`; errors as of `filled`."""
    if not is_utf8(text):
        raise record.error(name, "text that UTF-8 can hold")
    if "<image>" in text:
        raise record.error(name, "a text without '<image>', which stands for a picture")
    return text


def members(record: Record, name: str) -> list[Record]:
    """The objects of a list in the record; ValueError for another value."""
    value = record.fields.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        raise record.error(name, "a list of objects")
    return [Record(record.file, f"{record.place}, {name} {place}", each) for place, each in enumerate(value)]


def whole(record: Record, name: str) -> int:
    """A whole number of the record, 0 to 2**63; ValueError for another value."""
    value = record.fields.get(name)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise record.error(name, "a whole number")
    return value
