"""POPE: whether named objects are in an image, yes or no, in three splits: random, popular, adversarial.

The objects that are not there are drawn at random, from the most frequent ones, or from those that often come with what is
there. A row may stand for several splits (``random,popular``): it then counts in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.questions import Question, QuestionTask
from janus_train.evaluate.benchmarks.registry import register_task
from janus_train.evaluate.benchmarks.result import PRO_TABLE, Published, Result, Score, share_of
from janus_train.evaluate.benchmarks.tables import Row
from janus_train.evaluate.benchmarks.yes_no import yes_or_no
from janus_train.jsonl import Line

SPLITS = ("random", "popular", "adversarial")
HEADLINE = "random"
"""The split of the papers' figure: Janus-1.3B's adapter measured 87.1 in it where the paper has 87.0, and 85.5 over all."""


class Pope(QuestionTask):
    name = "pope"
    title = "POPE"
    files = ("POPE.tsv", "pope/*.tsv", "pope/*.parquet", "pope/data/test*.parquet")
    published = Published(87.0, 86.2, 87.4, PRO_TABLE)

    def questions(self, rows: Sequence[Row], protocol: Protocol) -> list[Question]:
        questions = []
        for number, row in enumerate(rows):
            expected, splits = row.get("answer").strip().lower(), row.get("category").lower().replace(" ", "")
            if expected not in ("yes", "no"):
                raise UserError(f"{row.where}: the answer is {expected!r}, yes or no was expected")
            unknown = next((split for split in splits.split(",") if split not in SPLITS), None)
            if unknown is not None:
                raise UserError(f"{row.where}: the category is {unknown!r}, one of {', '.join(SPLITS)} was expected")
            key = row.values.get("index", str(number))  # the hub's ids come again in each split
            text = protocol.prompt(self.name, "yes_no", row.get("question"))
            facts = {"splits": splits.split(","), "expected": expected}
            questions.append(Question(key, text, row.images, facts, row.where))
        return questions

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        of_split = {split: [line for line in lines if split in line["splits"]] for split in SPLITS}
        scores = _scores([line for split in SPLITS for line in of_split[split]], "")
        for split in SPLITS:
            if of_split[split]:
                scores += _scores(of_split[split], split)
        headline = next((score for score in scores if (score.name, score.group) == ("F1", HEADLINE)), None)
        return Result(tuple(scores), headline, sum(yes_or_no(line["answer"]) is None for line in lines))


def _scores(lines: Sequence[Line], split: str) -> list[Score]:
    """The five measures of a split. An answer that is neither yes nor no is wrong, and no yes."""
    pairs = [(yes_or_no(line["answer"]), line["expected"]) for line in lines]
    num_yes = sum(given == "yes" for given, _ in pairs)
    num_expected = sum(expected == "yes" for _, expected in pairs)
    num_hits = sum(given == expected == "yes" for given, expected in pairs)
    f1 = 200 * num_hits / (num_yes + num_expected) if num_yes + num_expected else 0.0
    return [
        Score("F1", f1, split, len(pairs)),
        share_of("accuracy", sum(given == expected for given, expected in pairs), len(pairs), split),
        share_of("precision", num_hits, num_yes, split),
        share_of("recall", num_hits, num_expected, split),
        share_of("share of yes", num_yes, len(pairs), split),
    ]


register_task(Pope())
