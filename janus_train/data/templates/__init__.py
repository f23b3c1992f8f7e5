"""Templates: how a record's fields and images become the segments of a sample.

    registry.py                                       what a template is, and all of them by their names
    conversation.py editing.py images.py              the templates, which register themselves
    interleaved.py text.py
    fields.py                                         what they take from a record, checked

To add one, add a module here and import it below, or write a plug-in. Of several templates that read one field,
`template_for` takes the one that is imported first.
"""

from janus_train.data.templates import conversation, editing, images, interleaved, text  # noqa: F401 - each registers its own
from janus_train.data.templates.registry import (
    Template,
    chosen_template,
    get_template,
    register_template,
    template_for,
    text_before_image,
)

__all__ = [
    "Template",
    "chosen_template",
    "get_template",
    "register_template",
    "template_for",
    "text_before_image",
]
