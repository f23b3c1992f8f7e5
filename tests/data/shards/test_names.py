"""Which members are one sample: every way in which people name them."""

from __future__ import annotations

import pytest

from janus_train.data.shards.names import key_of, split_key

WORDS, IMAGES = ("json", "txt", "cls"), ("jpg", "png")


def split(*names):
    members = [(name.rpartition(".")[0], name.rpartition(".")[2], name) for name in names]
    return split_key("a", members, WORDS, IMAGES)


@pytest.mark.parametrize(
    ("name", "key"),
    [("a.jpg", "a"), ("a.b.jpg", "a"), ("d.e/a.b.jpg", "d.e/a"), ("d.e/a", "d.e/a"), ("v_1.5.txt", "v_1")],
)
def test_a_key_ends_at_the_first_dot_of_the_base_name(name, key):
    assert key_of(name) == key


@pytest.mark.parametrize(
    ("names", "samples", "unused"),
    [
        (["a.jpg", "a.txt"], {"a": ["jpg", "txt"]}, []),
        (["a.0.jpg", "a.01.png", "a.json"], {"a": ["0.jpg", "1.png", "json"]}, []),
        (["a.v2.png", "a.v2.txt"], {"a.v2": ["png", "txt"]}, []),
        (["a.v1.png", "a.v2.png", "a.v1.txt", "a.v2.txt"], {"a.v1": ["png", "txt"], "a.v2": ["png", "txt"]}, []),
        (["a.v2.png", "a.txt"], {"a": ["txt", "png"]}, []),
        (["a.png", "a.v2.txt"], {"a": ["txt", "png"]}, []),
        (["a.jpg", "a.txt", "a.mask.png"], {"a": ["jpg", "txt"]}, ["mask.png"]),
        (["a.jpg", "a.txt", "a.blip.txt", "a.n.cls"], {"a": ["jpg", "txt"]}, ["blip.txt", "n.cls"]),
        (["a.jpg", "a.json", "a.b.json"], {"a": ["jpg", "json"], "a.b": ["json"]}, []),
        (["a.v1.png", "a.v1.txt", "a.v2.png"], {"a.v1": ["png", "txt"], "a.v2": ["png"]}, []),
        (["a.v1.png", "a.v2.txt"], {"a.v1": ["png"], "a.v2": ["txt"]}, []),
        (["a.b.0.jpg", "a.b.1.jpg", "a.b.json"], {"a.b": ["0.jpg", "1.jpg", "json"]}, []),
        (["a.0.json", "a.0.jpg"], {"a.0": ["json", "jpg"]}, []),
        (["a.txt", "a.b.txt"], {"a": ["txt"], "a.b": ["txt"]}, []),
    ],
)
def test_members_of_one_key(names, samples, unused):
    result = split(*names)
    assert {name: list(parts) for name, parts in result.samples.items()} == samples
    assert (result.unused, result.ambiguous, result.duplicates) == (unused, [], [])


@pytest.mark.parametrize(
    ("names", "ambiguous", "unused"),
    [
        (["a.v1.png", "a.v2.png", "a.txt"], ["a"], ["v1.png", "v2.png"]),
        (["a.png", "a.v1.txt", "a.v2.txt"], ["a.v1", "a.v2"], ["png"]),
    ],
)
def test_what_is_not_clear_is_no_sample(names, ambiguous, unused):
    result = split(*names)
    assert (result.samples, result.ambiguous, sorted(result.unused)) == ({}, ambiguous, unused)


@pytest.mark.parametrize("names", [["a.jpg", "a.png", "a.txt"], ["a.0.jpg", "a.00.png", "a.txt"], ["a.txt", "a.txt"]])
def test_two_members_of_a_kind(names):
    assert split(*names).duplicates == ["a"]
