"""``captions``: images in a folder, their captions in JSON lines, a JSON list, CSV, TSV, Parquet, COCO's JSON, or beside
them in files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from janus_train.data.image_files import IMAGE_ENDINGS
from janus_train.data.unused import not_used
from janus_train.datatools.prepare.field_names import check_image_and_caption, is_file_name
from janus_train.datatools.prepare.fields import IMAGE_FIELDS, captioned_samples
from janus_train.datatools.prepare.formats.caption_folders import (
    CAPTION_EXTENSION,
    METADATA,
    PairFolder,
    contents,
    count_unnamed_images,
    metadata_files,
    pair_folder,
    read_caption,
    read_pairs,
)
from janus_train.datatools.prepare.formats.listed import RecordListFormat
from janus_train.datatools.prepare.inputs import expand, file_extent, read_file
from janus_train.datatools.prepare.items import Entry, Extent, Item, SkipRecord, Unit, split_into_units
from janus_train.datatools.prepare.options import PrepareOptions, flag
from janus_train.datatools.prepare.records import ENDINGS, OBJECT, kind_of, load_object
from janus_train.datatools.prepare.tables import is_path_type, open_parquet
from janus_train.errors import UserError

_ENDINGS = (*ENDINGS, ".parquet")
_NOT_FOR_PAIRS = ("images", "image_field", "text_field", "columns", "captions")


class CaptionsFormat(RecordListFormat):
    """One image per record. In COCO's layout (``images`` and ``annotations``) an image's captions are collected.

    A job is a file of records, or a folder of images with captions beside them.
    """

    image_fields = IMAGE_FIELDS

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        self.several = options.captions == "each"
        self._named: set[str] | None = None  # while a file of metadata is planned, the images that it names

    def find_files(self) -> list[str | PairFolder]:
        jobs: list[str | PairFolder] = []
        for name in self.options.inputs:
            jobs += self._jobs_of(name)
        twice = next((job for job in jobs if jobs.count(job) > 1), None) if len(set(jobs)) < len(jobs) else None
        if twice is not None:
            raise UserError(f"{twice.folder if isinstance(twice, PairFolder) else twice} is named twice")
        return jobs

    def _jobs_of(self, name: str) -> Sequence[str | PairFolder]:
        extension = self.options.caption_extension
        if not Path(name).is_dir():
            if extension is not None:
                raise UserError(f"--caption-extension is for folders of images, and {name} is none")
            return expand((name,), _ENDINGS, "file of records")
        if extension is None and (files := metadata_files(name)):
            return files
        pairs = pair_folder(name, extension)
        if pairs is None:
            return self._files_in(name)
        for option in _NOT_FOR_PAIRS:
            if getattr(self.options, option) != PrepareOptions.__dataclass_fields__[option].default:
                raise UserError(
                    f"{flag(option)} has no effect for {name}: the captions stand beside the images; leave it out"
                )
        return [pairs]

    def _files_in(self, folder: str) -> list[str]:
        try:
            return expand((folder,), _ENDINGS, "file of records", beside=IMAGE_ENDINGS)
        except UserError:
            raise UserError(
                f"{folder} contains neither a file of records (.jsonl, .json, .csv, .tsv, .parquet) nor images with a "
                f"{CAPTION_EXTENSION} beside each (--caption-extension names another ending), but {contents(folder)}"
            ) from None

    def samples(self, record: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
        if num_images == 0:
            raise SkipRecord("the record names no image")
        return captioned_samples(record, self.options, num_images)

    # -- planning

    def plan(self, job: str | PairFolder) -> Iterator[Unit]:
        if isinstance(job, PairFolder):
            return split_into_units(_pair_extents(job), lambda pairs: {"pairs": pairs})
        units = self._plan_file(job)
        is_metadata = Path(job).name.lower() in METADATA and self.options.images is None
        return self._count_unnamed(job, units) if is_metadata else units

    def _plan_file(self, job: str) -> Iterator[Unit]:
        if job.lower().endswith(".parquet") or kind_of(job) != OBJECT:
            return super().plan(job)
        images = ((record, f"{job}, image {record['id']}", record) for record in _coco(job))
        return split_into_units(self.record_sizes(job, images), lambda records: {"file": job, "records": records})

    def plan_parquet(self, job: str) -> Iterator[Unit]:
        """As any file of records, if the images are outside it."""
        schema = open_parquet(job).schema_arrow
        inside = [field.name for field in schema if field.name in IMAGE_FIELDS and not is_path_type(field.type)]
        if inside:
            raise UserError(f"{job} has images inside, in the column {inside[0]!r}: prepare parquet reads it")
        return super().plan_parquet(job)

    def _count_unnamed(self, file: str, units: Iterator[Unit]) -> Iterator[Unit]:
        self._named = set()
        yield from units
        count_unnamed_images(file, self._named)
        self._named = None

    def planned_files(self, job: str | PairFolder) -> list[str]:
        return [] if isinstance(job, PairFolder) else [job]

    def images(self, record: dict[str, Any], file: str, location: str) -> list[str | bytes]:
        images = super().images(record, file, location)
        if self._named is not None:
            self._named.update(image for image in images if isinstance(image, str))
        return images

    def named_images(self, record: dict[str, Any]) -> Any:
        images = super().named_images(record)
        if images or self.options.image_field is not None:
            return images
        return next((record[name] for name in record if is_file_name(name) and record.get(name)), None)

    def check_fields(self, file: str, names: list[str]) -> None:
        check_image_and_caption(file, names, self.options)

    # -- reading

    def entries(self, unit: Unit) -> Iterator[Entry]:
        place = unit.place
        if not isinstance(place, dict) or "parquet" in place:
            yield from super().entries(unit)
        elif "pairs" in place:
            for image, caption in place["pairs"]:
                yield Entry(image, (image, caption))
        else:
            for record in place["records"]:
                yield Entry(f"{place['file']}, image {record['id']}", (place["file"], record))

    def item(self, entry: Entry) -> Item:
        image, caption = entry.value
        if not isinstance(caption, str):
            return super().item(entry)
        text = read_caption(caption)
        if not text:
            raise SkipRecord("the caption is empty", caption, left_out=self.options.drop_empty)
        samples = captioned_samples({"caption": text}, self.options, 1)
        return Item(samples, [read_file(image)], Path(image).stem)


def _pair_extents(job: PairFolder) -> Iterator[tuple[tuple[str, str], Extent]]:
    for image, caption in read_pairs(job):
        yield (image, caption), (file_extent(image) or Extent()) + (file_extent(caption) or Extent())


def _coco(file: str) -> list[dict[str, Any]]:
    """COCO's images in order, each with its captions. Raises `UserError` for another layout."""
    content = load_object(file)
    images, annotations = content.get("images"), content.get("annotations")
    try:
        assert images is not None and annotations is not None
        records = {image["id"]: {"id": image["id"], "file_name": image["file_name"], "caption": []} for image in images}
        for annotation in annotations:
            if annotation["image_id"] in records:
                records[annotation["image_id"]]["caption"].append(annotation["caption"])
            else:
                not_used("annotations of images that are not listed")
    except (AssertionError, KeyError, TypeError):
        raise UserError(
            f"{file} is one JSON object but not COCO's captions: 'images' with 'id' and 'file_name', and 'annotations' "
            "with 'image_id' and 'caption', are needed"
        ) from None
    return list(records.values())
