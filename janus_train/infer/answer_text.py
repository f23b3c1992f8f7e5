"""The text of an answer while its tokens come: pieces that later tokens cannot change, up to EOS or a stop sequence."""

from __future__ import annotations

from collections.abc import Sequence

from janus_train.data.encode import Encoder


class AnswerText:
    """Takes an answer's tokens one by one; the pieces that `add` and `rest` return together are the answer."""

    def __init__(self, encoder: Encoder, stop: Sequence[str] = ()):
        """``stop``: the answer ends before the one that is complete first; none is empty."""
        self._encoder, self._stop = encoder, stop
        self._ids: list[int] = []
        self._sent = ""
        self.has_ended = False
        """Whether EOS or a stop sequence has come: no further tokens are wanted."""

    @property
    def num_tokens(self) -> int:
        """The number of tokens so far, with the one that ended the answer."""
        return len(self._ids)

    def add(self, token: int) -> str:
        """Returns the piece that is certain now; often none."""
        self._ids.append(token)
        text, found = self._cut(self._decode())
        self.has_ended = found or token == self._encoder.special.eos
        if not found:
            text = text[: len(text) - self._num_held_back(text)]
        # Spaces may be the answer's end, where they are stripped; half a character decodes to the replacement character.
        text = text.rstrip()
        if not text.startswith(self._sent) or text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        piece, self._sent = text[len(self._sent) :], text
        return piece

    def rest(self) -> str:
        """Returns what `add` held back. The answer ends here."""
        text, _ = self._cut(self._decode())
        piece = text.rstrip()[len(self._sent) :]
        self._sent += piece
        return piece

    def _decode(self) -> str:
        text: str = self._encoder.tokenizer.decode(self._ids, skip_special_tokens=True)
        return text.lstrip()

    def _cut(self, text: str) -> tuple[str, bool]:
        """The text before the first stop sequence, and whether there is one."""
        places = [place for place in map(text.find, self._stop) if place >= 0]
        return (text[: min(places)], True) if places else (text, False)

    def _num_held_back(self, text: str) -> int:
        """The number of characters at the end that may be the beginning of a stop sequence."""
        return max(
            (n for stop in self._stop for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])),
            default=0,
        )
