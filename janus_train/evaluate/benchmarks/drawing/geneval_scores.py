"""GenEval's score: the mean over the six tasks of the share of right images."""

from __future__ import annotations

from collections.abc import Sequence

from janus_train.evaluate.benchmarks.drawing.geneval_files import SAMPLES, JudgedImage
from janus_train.evaluate.benchmarks.drawing.geneval_prompts import TAGS, GenevalPrompt
from janus_train.evaluate.benchmarks.result import Score, share_of


def geneval_scores(images: Sequence[JudgedImage], how: str = "") -> tuple[Score, ...]:
    """Returns the overall score, the share of each tag that has images, and the share over all images.

    ``how``: what to say beside each name if not GenEval's own scorer has judged.
    """
    said = f" ({how})" if how else ""
    tags = [tag for tag in TAGS if any(image.tag == tag for image in images)]
    by_tag = {tag: [image.correct for image in images if image.tag == tag] for tag in tags}
    shares = [share_of(f"right images{said}", sum(right), len(right), tag) for tag, right in by_tag.items()]
    overall = Score(f"mean over the tasks{said}", sum(share.value for share in shares) / len(shares), n=len(images))
    pooled = share_of(f"right images{said}", sum(image.correct for image in images), len(images), "all images")
    return (overall, *shares, pooled)


def gaps(images: Sequence[JudgedImage], prompts: Sequence[GenevalPrompt]) -> list[str]:
    """Says what keeps a score from being GenEval's: images or whole tags that were not judged."""
    lines = []
    expected = SAMPLES * len(prompts)
    if len(images) != expected:
        lines.append(f"{len(images)} of {expected} images are judged")
    missing = [tag for tag in TAGS if all(image.tag != tag for image in images)]
    if missing:
        lines.append(
            f"the mean is over {len(TAGS) - len(missing)} of six tasks: no image of {', '.join(missing)} is judged"
        )
    return lines
