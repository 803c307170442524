"""Which item is on which image, from a file of the user's where the tool's own files do not say."""

from collections.abc import Iterable
from pathlib import Path

from cotbal.collect.records import by_id, images_of, read_records
from cotbal.collect.source import Source
from cotbal.collect.truth import some, the_field

IMAGES_OPTION = "a file with the id and the image of every item (fields {} and image), if the items lack it"


def images_files(source: Source) -> tuple[Path, ...]:
    """Return the file of the option `images`, none where it was not given."""
    return (Path(source.options["images"]),) if "images" in source.options else ()


def images_from_file(source: Source, ids: Iterable[str], id_fields: tuple[str, ...]) -> dict[str, str]:
    """Return {id: image} of the ids, from the file of the option `images`.

    Raises:
        ValueError: the file lacks an id, or an item's image.
    """
    path = Path(source.required("images"))
    records = read_records(path)
    found = by_id(records, the_field(records, None, id_fields, "images"))
    wanted = list(ids)
    if missing := [key for key in wanted if key not in found]:
        raise ValueError(f"{path}: {len(missing)} ids missing ({some(missing)}), which {source} has")
    name = source.options.get("image", "image")
    images = images_of(found, name)
    return {key: images[key] if key in images else found[key].id(name) for key in wanted}
