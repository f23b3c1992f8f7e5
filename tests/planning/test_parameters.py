"""Parameters by arithmetic are those of the model that trains."""

from __future__ import annotations

from janus_train.model.build import build
from janus_train.model.parts import parameters_by_part
from janus_train.planning.parameters import parameter_counts
from tests.helpers import config_of


def test_counts_are_the_built_models() -> None:
    model = config_of("+stage=2").model
    counts_of_built_model = {
        part: sum(p.numel() for _, p in named_parameters)
        for part, named_parameters in parameters_by_part(build(model)).items()
    }
    assert parameter_counts(model) == counts_of_built_model


def test_counts_of_the_papers_sizes() -> None:
    """Counted from the released models: 2.00 B with SigLIP and without the VQ tokenizer; 7.34 B."""
    for name, billions in (("janus_pro_1b", 2.00), ("janus_pro_7b", 7.34)):
        counts = parameter_counts(config_of("+stage=2", f"model={name}").model)
        assert round(sum(n for part, n in counts.items() if part != "generation_encoder") / 1e9, 2) == billions
