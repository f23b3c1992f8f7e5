"""``/v1/images``: the images are the model's own, of the same seed."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers import encoded, plain_image
from tests.serve.serving import NAME

RED = plain_image((200, 30, 30))


def pixels(item: Any) -> np.ndarray:
    image = Image.open(io.BytesIO(base64.b64decode(item.b64_json)))
    assert image.format == "PNG"
    return np.asarray(image)


def test_images_are_the_models(client, loaded):
    done = client.images.generate(model=NAME, prompt="a dog", n=2, extra_body={"seed": 7})
    expected = loaded.generate(["a dog"] * 2, seeds=[7, 8])
    assert all(np.array_equal(pixels(item), np.asarray(image)) for item, image in zip(done.data, expected, strict=True))
    assert not np.array_equal(pixels(done.data[0]), pixels(done.data[1]))
    assert [item.seed for item in done.data] == [7, 8] and done.output_format == "png"
    prompt, codes = len(loaded.encoder.generation_prompt_ids("a dog")), 2 * loaded.encoder.tokens_per_image
    assert (done.usage.input_tokens, done.usage.output_tokens) == (prompt, codes)
    assert done.usage.total_tokens == prompt + codes and done.usage.input_tokens_details.image_tokens == 0


def test_the_servers_own_fields(client, loaded):
    side = loaded.encoder.generation_image_size
    options = {"seed": 3, "guidance": 2.0, "temperature": 0.8, "top_k": 20, "top_p": 0.9}
    done = client.images.generate(
        prompt="a dog", size=f"{side}x{side}", response_format="b64_json", output_format="png", extra_body=options
    )
    [expected] = loaded.generate(["a dog"], seeds=[3], guidance=2.0, temperature=0.8, top_k=20, top_p=0.9)
    assert np.array_equal(pixels(done.data[0]), np.asarray(expected))
    assert done.size == f"{side}x{side}"


def test_without_a_seed_each_image_is_another_and_tells_its_seed(client):
    first, second = (client.images.generate(prompt="a dog").data[0] for _ in range(2))
    assert not np.array_equal(pixels(first), pixels(second))
    again = client.images.generate(prompt="a dog", extra_body={"seed": first.seed}).data[0]
    assert np.array_equal(pixels(first), pixels(again))


@pytest.mark.parametrize("number", [1, 2])
def test_an_image_is_edited(client, loaded, number):
    files = [encoded(RED), encoded(plain_image((0, 0, 200)), "JPEG")][:number]
    images = [Image.open(io.BytesIO(data)) for data in files]
    done = client.images.edit(
        image=files[0] if number == 1 else files,
        prompt="make it blue",
        model=NAME,
        n=2,
        extra_body={"seed": "4", "guidance": "3"},
    )
    expected = loaded.generate(["make it blue"] * 2, seeds=[4, 5], images=images, guidance=3.0)
    assert all(np.array_equal(pixels(item), np.asarray(image)) for item, image in zip(done.data, expected, strict=True))
    assert done.usage.input_tokens_details.image_tokens == number * loaded.encoder.tokens_per_image


@pytest.mark.parametrize(
    ("options", "message", "param"),
    [
        ({"prompt": " "}, "the prompt is empty: describe the image", "prompt"),
        ({"prompt": "x" * 10_001}, "the text has 10,001 characters, at most 10,000 are taken", "prompt"),
        ({"prompt": "word " * 1900}, "do not fit the context", "prompt"),
        ({"prompt": "<image_placeholder> in red"}, "the special token <image_placeholder>", "prompt"),
        ({"size": "1024x1024"}, "the model draws images of 96x96: give that, or auto", "size"),
        ({"n": 17}, "n: Input should be less than or equal to 16", "n"),
        ({"n": 0}, "n: Input should be greater than or equal to 1", "n"),
        ({"response_format": "url"}, "response_format: Input should be 'b64_json'", "response_format"),
        ({"output_format": "webp"}, "output_format: Input should be 'png'", "output_format"),
        ({"quality": "hd"}, "quality is not supported", "quality"),
        ({"style": "vivid"}, "style is not supported", "style"),
        ({"background": "transparent"}, "background is not supported", "background"),
        ({"extra_body": {"guidance": 0.5}}, "guidance: Input should be greater than or equal to 1", "guidance"),
        ({"extra_body": {"temperature": "hot"}}, "temperature: Input should be a valid number", "temperature"),
        ({"extra_body": {"negative_prompt": "x"}}, "there is no field 'negative_prompt'", "negative_prompt"),
    ],
)
def test_what_is_wrong_is_told(client, options, message, param):
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(**{"prompt": "a dog"} | options)
    assert message in refused.value.body["message"] and refused.value.body["param"] == param


@pytest.mark.parametrize(
    ("options", "message", "param"),
    [
        ({"image": b"no image"}, "the image cannot be read as an image: it is not an image", "image"),
        ({"mask": encoded(RED)}, "a file in 'mask' is not supported", "mask"),
        ({"size": "1024x1024"}, "the model draws images of", "size"),
        ({"n": 99}, "n: Input should be less than or equal to 16", "n"),
        ({"input_fidelity": "high"}, "input_fidelity is not supported", "input_fidelity"),
    ],
)
def test_what_is_wrong_in_an_edit_is_told(client, options, message, param):
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.edit(**{"prompt": "make it blue", "image": encoded(RED)} | options)
    assert message in refused.value.body["message"] and refused.value.body["param"] == param


def test_forms_that_no_client_sends(http):
    def post(**form):
        answer = http.post("/v1/images/edits", **form)
        return answer.status_code, answer.json()["error"]["message"]

    file = {"image": ("a.png", encoded(RED))}
    assert post(files=file, data={})[1] == "prompt: Field required"
    assert post(files={"x": (None, "y")}, data={"prompt": "x"}) == (
        400,
        "there is no image: send a file in the field image",
    )
    assert post(files=[("image", ("a.png", encoded(RED)))] * 17, data={"prompt": "x"})[0] == 400
    assert post(files=file, data={f"x{n}": "y" for n in range(100)})[0] == 400
    assert post(files=file, data={"prompt": "x" * 50_000})[0] == 400
    assert post(files=file, data={"prompt": "x", "n": "two"})[1].startswith("n: Input should be a valid integer")
    assert post(content=b"x", headers={"content-type": "multipart/form-data"})[0] == 400
    assert post(content=b"x" * 100, headers={"content-type": "multipart/form-data; boundary=y"})[0] == 400
