"""Images of requests, which come as ``data:`` URLs or files, and of answers."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image

from janus_train.data.encode import Encoder
from janus_train.errors import UserError
from janus_train.infer.limits import check_images, read_image
from janus_train.infer.rows import fitted
from janus_train.serve.errors import ApiError

_NOT_FETCHED = "nothing is fetched from an address: send the image itself as data:image/png;base64,..."


class ImageReader:
    """Reads the images of one request, fits each to the model, and counts them and their pixels."""

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._pixels = 0
        self.images: list[Image.Image] = []

    def add_url(self, url: str, param: str) -> None:
        """Raises `ApiError` unless it is a ``data:`` URL with an image in base64."""
        head, comma, text = url.partition(",")
        if not head[:5].lower() == "data:":
            raise ApiError(400, _NOT_FETCHED, param=param)
        if not comma or not head.lower().endswith(";base64"):
            raise ApiError(400, "the data: URL must have its image in base64", param=param)
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(400, "the data: URL is not valid base64", param=param) from None
        self.add(data, param)

    def add(self, data: bytes, param: str) -> None:
        """Raises `ApiError` for what is not an image, too large, or one too many."""
        try:
            check_images(len(self.images) + 1)
            image = read_image(data, "the image")
            self._pixels += image.width * image.height
            check_images(len(self.images) + 1, self._pixels)
            self.images.append(fitted(self._encoder, image))
        except UserError as error:
            raise ApiError(400, str(error), param=param, code="invalid_image") from None


def as_png(image: Image.Image) -> str:
    """The image as a PNG in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
