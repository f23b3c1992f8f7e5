"""A field that is missing is named, with the fields that are there and the option that names it."""

from __future__ import annotations

import pytest

from janus_train.datatools.prepare.field_names import check_image_and_caption, check_text, is_file_name
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.errors import UserError


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (["image", "caption"], {}, None),
        (["file_name", "text"], {}, None),
        (["mask_file_name", "text"], {}, None),
        (["image", "conversations"], {}, None),
        (
            ["bild", "text"],
            {},
            "x.csv has 'bild', 'text': none of these is known as the path of an image; .*--image-field",
        ),
        (["image", "wort"], {}, "x.csv has 'image', 'wort': none of these is known as a caption; .*--text-field"),
        (["bild", "wort"], {"image_field": "bild", "text_field": ("wort",)}, None),
        (
            ["bild", "wort"],
            {"image_field": "b", "text_field": ("wort",)},
            "--image-field 'b': no such field is in x.csv",
        ),
        (["image", "wort"], {"text_field": ("w.x", "v")}, "--text-field 'w.x': no such field is in x.csv"),
        (["image", "wort"], {"text_field": ("w.x", "wort")}, None),
        (["Task2", "img_path"], {"text_field": ("Task2.Caption",)}, None),
        (["photoid", "title"], {"image_field": "{photoid}.jpg"}, None),
        (["number", "title"], {"image_field": "{photoid}.jpg"}, "--image-field 'photoid': no such field"),
        (["file_name", "mask_file_name", "text"], {}, "several columns of files, file_name, mask_file_name: choose"),
        (["file_name", "mask_file_name", "text"], {"image_field": "file_name"}, None),
        ([f"c{number}" for number in range(30)], {}, "'c19' and 10 more: none"),
    ],
)
def test_captioned_images(names, options, says):
    prepare_options = PrepareOptions("captions", ("x.csv",), **options)
    if says is None:
        check_image_and_caption("x.csv", names, prepare_options)
    else:
        with pytest.raises(UserError, match=says):
            check_image_and_caption("x.csv", names, prepare_options)


def test_texts():
    check_text("x.csv", ["id", "text"], PrepareOptions("text", ("x.csv",)))
    check_text("x.csv", ["id", "body"], PrepareOptions("text", ("x.csv",), text_field=("body",)))
    with pytest.raises(UserError, match=r"x\.csv has 'id', 'body': none of these is known as a text"):
        check_text("x.csv", ["id", "body"], PrepareOptions("text", ("x.csv",)))


def test_columns_of_files():
    assert [is_file_name(name) for name in ("file_name", "file_names", "a_file_name", "filename", "file_name_a")] == [
        True,
        True,
        True,
        False,
        False,
    ]
