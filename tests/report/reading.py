"""Read a report back as a browser would: its tables, its text, its references."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects every table's rows by id, all text outside style, references, pictures, ids, elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self.references: list[str] = []
        self.pictures: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self._rows: list[list[str]] | None = None
        self._cell: list[str] | None = None
        self._style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [
            value or "" for name, value in attrs if name.split(":")[-1] in ("src", "href", "srcset")
        ]
        self.pictures += [value or "" for name, value in attrs if (tag, name) == ("img", "src")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "table":
            self._rows = self.tables.setdefault((dict(attrs).get("id") or "").removeprefix("table-"), [])
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("th", "td"):
            self._cell = []
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td") and self._cell is not None and self._rows is not None:
            self._rows[-1].append("".join(self._cell))
            self._cell = None
        elif tag == "table":
            self._rows = None
        elif tag == "style":
            self._style = False

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        if not self._style:
            self.text += data
