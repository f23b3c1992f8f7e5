from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from janus_train.config import RatioConfig
from janus_train.data.encode import Encoder
from janus_train.data.recipe import Recipe
from janus_train.data.special_tokens import EOS
from janus_train.data.streams import DocumentSampler
from janus_train.data.templates import get_template, register_template, registry, template_for, text_before_image
from janus_train.data.types import IGNORE, BadSample, Record, Segment
from janus_train.errors import UserError
from tests.helpers import document_of, make_shard, plain_image


def limerick(record: Record) -> list[Segment]:
    return [Segment("text", "Once: "), Segment("text", record.fields["limerick"] + EOS, loss=True)]


@pytest.fixture
def registered(registries: None) -> Iterator[None]:
    assert register_template(reads="limerick")(limerick) is limerick
    yield


def test_an_unknown_template_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"^there is no template 'poem', known are class_to_image, conversation, .*, text_to_image$"
    ):
        get_template("poem")
    with pytest.raises(UserError, match=r"^r\.yaml: there is no template 'poem'"):
        get_template("poem", of="r.yaml")


@pytest.mark.usefixtures("registered")
def test_another_package_adds_a_template_that_a_recipe_names(encoder: Encoder, tmp_path: Path) -> None:
    make_shard(tmp_path / "a.tar", {"0.json": {"limerick": "There was a dog."}})
    (tmp_path / "r.yaml").write_text(
        "{name: r, licence: none, sources: [{name: a, kind: text, type: shards, template: limerick, weight: 1, "
        "paths: [a.tar]}]}"
    )
    recipe = Recipe(str(tmp_path / "r.yaml"), RatioConfig(understanding=0, text=1, generation=0, unit="samples"), 64)
    sampler = DocumentSampler(
        recipe, encoder, seed=0, num_streams=1, row_tokens=64, guidance_dropout=0.0, first_sentence=0.0
    )
    document = sampler.sample("a", 0, 0).document
    assert encoder.tokenizer.decode(document.input_ids[1:].tolist()) == f"Once: There was a dog.{EOS}"
    assert not document.can_cut
    assert pickle.loads(pickle.dumps(sampler.templates)) == sampler.templates, "worker processes get them by pickle"  # noqa: S301


@pytest.mark.usefixtures("registered")
def test_a_record_of_which_no_recipe_speaks_is_known_by_its_field() -> None:
    fields = {"conversations": [], "question": "", "caption": "", "class_name": "", "text": "", "limerick": ""}
    names = [template_for(Record("k", dict(list(fields.items())[place:]))).name for place in range(len(fields))]
    assert names == ["conversation", "question_answer", "image_caption", "class_to_image", "text", "limerick"]
    with pytest.raises(
        BadSample, match=r"it has none of the fields conversations, instruction, question, caption, .*limerick"
    ):
        template_for(Record("k", {"poem": "x"}))


@pytest.mark.usefixtures("registries")
def test_two_packages_cannot_have_one_name() -> None:
    def text(record: Record) -> list[Segment]:
        return []

    with pytest.raises(
        UserError, match=r"template 'text' of .*test_templates.*: janus_train.data.templates.text has one"
    ):
        register_template(reads="text")(text)
    assert get_template("text").build.__module__ == "janus_train.data.templates.text"


def test_the_templates_that_draw_read_codes() -> None:
    names_with_codes = {template.name for template in registry._TEMPLATES if template.reads_codes}
    assert names_with_codes == {"conversation", "text_to_image", "request_to_image", "class_to_image", "editing"}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("class_to_image", "a moose"),
        ("text_to_image", "a moose"),
        ("request_to_image", "<|User|>: a moose\n\n<|Assistant|>:"),
        ("conversation", "<|User|>: a moose\n\n<|Assistant|>:"),  # no image comes from one text: the official prompt
        ("editing", "<|User|>: a moose\n\n<|Assistant|>:"),
        ("image_caption", "<|User|>: a moose\n\n<|Assistant|>:"),
        ("text", "<|User|>: a moose\n\n<|Assistant|>:"),
    ],
)
def test_previews_are_asked_for_as_the_template_trains(name: str, wanted: str) -> None:
    assert text_before_image(get_template(name), "a moose") == wanted


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("image_caption", {"caption": "Two dogs."}),
        ("image_describe", {"caption": "Two dogs."}),
        ("question_answer", {"question": "Which is larger?", "answer": "Two dogs."}),
    ],
)
def test_a_text_may_be_about_several_images(encoder: Encoder, name: str, fields: dict[str, str]) -> None:
    images = [plain_image((250, 0, 0)), plain_image((0, 250, 0))]
    document = document_of(encoder, Record("k", fields, images), name, "understanding")
    colours = [pixels[32, 32].tolist() for pixels in document.understanding_pixels]
    assert colours == [[250, 0, 0], [0, 250, 0]]
    (_, first_stop), (second_start, second_stop) = document.image_spans
    assert first_stop == second_start, "they come first, one after the other"
    learned = document.labels[document.labels != IGNORE].tolist()
    assert (
        encoder.tokenizer.decode(learned) == f"Two dogs.{EOS}" and (document.labels[: second_stop - 1] == IGNORE).all()
    )
