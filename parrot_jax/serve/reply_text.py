"""Incremental decoding of a reply. Does not import jax.

Whole replies and streams both use this class, so they have the same text. Text is returned only
when later ids can no longer change it: incomplete characters, a possible start of a stop string,
and white space that would be stripped at the end are held back.
"""

import bisect
from collections.abc import Sequence

from parrot_jax.data.tokenizers import Tokenizer
from parrot_jax.serve.engine import first_stop


class ReplyText:
    """Decodes ids to pieces of text.

    Attributes:
      ids: The ids of the reply so far; after a stop string, up to the id that completed it.
      stopped: Whether a stop string has ended the reply.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], *, is_turn: bool) -> None:
        """Starts an empty reply.

        Args:
          tokenizer: The tokenizer of the ids.
          stop: Stop strings; the reply ends before the one that is completed first.
          is_turn: Whether it is a turn of a dialogue, whose special tokens and surrounding white
            space are removed, as in training. A continued prompt keeps both.
        """
        self._tokenizer, self._stop, self._is_turn = tokenizer, stop, is_turn
        self._held_chars = max(map(len, stop), default=1) - 1
        self.ids: list[int] = []
        self.stopped = False
        self._open: list[int] = []  # the last of `ids`, whose text may still change
        self._held = ""  # final text that is held back
        self._has_begun, self._has_returned = False, False

    def add(self, ids: Sequence[int], *, is_last: bool) -> str:
        """Adds the next ids.

        Args:
          ids: May be empty.
          is_last: Whether these are the last ids.

        Returns:
          The next piece of the text, often empty. All pieces joined are the reply.
        """
        self.ids += ids
        tail = [*self._open, *ids]
        num_settled = len(tail)
        if not is_last:
            num_settled = self._tokenizer.num_settled(tail, special=not self._is_turn)
        settled, self._open = tail[:num_settled], tail[num_settled:]
        text = self._after_held(settled)
        at = first_stop(text, self._stop)
        if at is not None:
            through = bisect.bisect_left(
                range(len(settled)), True, key=lambda n: self._stops(settled[:n])
            )
            self.ids = self.ids[: len(self.ids) - len(tail) + through]
            self.stopped = True
            text, end = text[:at], at
        else:
            end = len(text) if is_last else max(0, len(text) - self._held_chars)
        self._has_begun |= bool(text)
        is_last |= self.stopped
        if self._is_turn:
            end = len(text[:end].rstrip())
        piece, self._held = text[:end], "" if is_last else text[end:]
        if self._is_turn and not self._has_returned:
            piece = piece.lstrip()
        self._has_returned |= bool(piece)
        return piece

    def _after_held(self, ids: Sequence[int]) -> str:
        """Returns the held-back text followed by the text of these ids."""
        text = self._tokenizer.text_inside(ids, special=not self._is_turn)
        # The space after the header is not part of the reply.
        if self._is_turn and not self._has_begun:
            text = text.removeprefix(" ")
        if self._is_turn:
            # No message can be stored with a NUL, and with a seed the next attempt has it, too.
            text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        return self._held + text

    def _stops(self, ids: Sequence[int]) -> bool:
        return first_stop(self._after_held(ids), self._stop) is not None
