"""The formats, by name. A module is loaded when its format is used."""

from __future__ import annotations

from importlib import import_module

from janus_train.datatools.prepare.items import Format
from janus_train.datatools.prepare.options import Options

_CLASSES = {
    "imagefolder": "ImageFolder",
    "captions": "Captions",
    "conversations": "Conversations",
    "parquet": "Parquet",
    "hf": "HfDataset",
    "text": "Text",
    "webdataset": "WebDataset",
}


def open_format(options: Options) -> Format:
    """The format with its inputs found. Raises `UserError` naming what is missing."""
    module = import_module(f"janus_train.datatools.prepare.formats.{options.format}")
    format_class: type[Format] = getattr(module, _CLASSES[options.format])
    return format_class(options)
