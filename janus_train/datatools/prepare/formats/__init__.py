"""The registry of formats by name. A module is imported when its format is used."""

from __future__ import annotations

from importlib import import_module

from janus_train.datatools.prepare.items import InputFormat
from janus_train.datatools.prepare.options import PrepareOptions

_CLASSES = {
    "imagefolder": "ImageFolderFormat",
    "captions": "CaptionsFormat",
    "conversations": "ConversationsFormat",
    "parquet": "ParquetFormat",
    "hf": "HfDatasetFormat",
    "text": "TextFormat",
    "webdataset": "WebDatasetFormat",
    "interleaved": "InterleavedFormat",
    "editing": "EditingFormat",
}


def open_format(options: PrepareOptions) -> InputFormat:
    """Open the format and find its inputs. Raises `UserError` naming what is missing."""
    module = import_module(f"janus_train.datatools.prepare.formats.{options.format}")
    format_class: type[InputFormat] = getattr(module, _CLASSES[options.format])
    return format_class(options)
