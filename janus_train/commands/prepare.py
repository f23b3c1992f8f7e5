"""``janus-train prepare``: converts raw data to shards.

The options of the conversion are declared only in datatools/prepare/options.py; the command's parameters are made from
the fields there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from janus_train.commands.index import print_notes
from janus_train.commands.options import MaxBad, Workers
from janus_train.commands.terminal import note
from janus_train.cpu import available_cores
from janus_train.data.unused import summary_of
from janus_train.datatools.prepare.options import PrepareOptions, field_types, flag, option_specs
from janus_train.errors import UserError
from janus_train.text import printable

_MAX_BAD = 0.01


def _with_fields_of_options(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with its parameter ``options`` replaced by one parameter for each field of `PrepareOptions`."""
    command_parameters = inspect.signature(command, eval_str=True).parameters
    defaults = inspect.signature(PrepareOptions).parameters
    types = field_types()
    parameters: list[inspect.Parameter] = []
    for parameter in command_parameters.values():
        if parameter.name == "options":
            parameters += [_parameter(name, types[name], defaults[name].default) for name in types]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def with_fields(**values: Any) -> None:
        from_command_line = {name: values.pop(name) for name in types}
        fields = {name: _field_value(name, value) for name, value in from_command_line.items() if value is not None}
        command(options=PrepareOptions(**fields), **values)

    with_fields.__name__, with_fields.__doc__ = command.__name__, command.__doc__
    with_fields.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    with_fields.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return with_fields


def _parameter(name: str, annotated_type: Any, default: Any) -> inspect.Parameter:
    """A field of `PrepareOptions` as typer's argument (without a default) or option."""
    field_type, spec = get_args(annotated_type)
    if get_origin(field_type) is tuple:  # a list in typer
        field_type, default = list[str], None if default == () else default
    if spec.parse is not None:
        field_type, default = str, spec.default_text
    if default is inspect.Parameter.empty:
        info: Any = typer.Argument(help=spec.help, metavar=spec.metavar, show_default=False)
    else:
        field_type = field_type | None if default is None else field_type
        info = typer.Option(flag(name), help=spec.help, min=spec.minimum)
    annotation = Annotated[field_type, info]  # type: ignore[valid-type] # built here, for typer to read
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _field_value(name: str, value: Any) -> Any:
    parse = option_specs()[name].parse
    if parse is not None:
        return parse(value)
    return tuple(value) if isinstance(value, list) else value


@_with_fields_of_options
def prepare(
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the shards; run the same command again to resume in it.")
    ] = None,
    options: PrepareOptions,
    workers: Workers = None,
    max_bad: MaxBad = _MAX_BAD,
    index_only: Annotated[
        bool, typer.Option("--index-only", help="webdataset: write an index beside tars that already have the layout.")
    ] = False,
) -> None:
    """Convert raw data to indexed WebDataset shards.

    Run the same command again to resume after an interruption. The bytes of the shards do not depend on --workers. JPEG,
    PNG and WebP images keep their bytes; other formats become PNG. Records that cannot be used are listed with the reason
    in OUT/skipped.jsonl. Nothing is downloaded, and no tar is extracted. An option that the format does not use is
    refused.

    \b
    Examples:
      janus-train prepare imagefolder ILSVRC2012_img_train.tar --classes classes.txt --out shards/imagenet
      janus-train prepare captions captions.jsonl --images photos --out shards/photos
      janus-train prepare captions dogs --out shards/dogs            (dogs/001.png with dogs/001.txt)
      janus-train prepare conversations llava.json --images coco/train2017 --out shards/llava
      janus-train prepare editing text_and_image_to_image.json --images pairs --out shards/edits
      janus-train prepare interleaved mmc4 --images mmc4_images --out shards/mmc4
      janus-train prepare text 'wiki/*.parquet' --shard-size 1GB --out shards/wiki
    """
    if index_only:
        _index_only(options, out, workers, max_bad)
        return
    if out is None:
        raise UserError("--out is missing: name the folder for the shards")
    from janus_train.datatools.prepare.progress import ProgressDisplay
    from janus_train.datatools.prepare.run import prepare as run

    with ProgressDisplay() as progress:
        result = run(options, out, workers or available_cores(), max_bad, progress.report, progress.compare)
    num_skipped, num_left_out = sum(result["skipped"].values()), sum(result["left_out"].values())
    folder = printable(str(out))
    print(
        f"{result['samples']:,} samples, {result['shards']} shards, {result['bytes'] / 1e6:,.1f} MB: {folder}"
        + (f"; {num_skipped:,} skipped" if num_skipped else "")
        + (f"; {num_left_out:,} left out" if num_left_out else "")
        + (f" ({folder}/skipped.jsonl lists the reasons)" if num_skipped or num_left_out else "")
    )
    if result["unused"]:
        note(f"not used: {summary_of(result['unused'])}")


def _index_only(options: PrepareOptions, out: Path | None, workers: int | None, max_bad: float) -> None:
    if options.format != "webdataset":
        raise UserError(f"--index-only is for webdataset, not for {options.format}")
    if out is not None:
        raise UserError("--out has no effect with --index-only: the index goes beside each tar")
    if options != PrepareOptions("webdataset", options.inputs) or workers is not None or max_bad != _MAX_BAD:
        raise UserError("--index-only leaves the tars as they are: leave the other options out")
    from janus_train.datatools.prepare.run import index_only

    index_paths, result = index_only(options)
    for path in index_paths:
        print(printable(str(path)))
    print_notes(result)
