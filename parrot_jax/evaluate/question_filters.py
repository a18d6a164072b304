"""Filters of proposed questions; each has its own reason."""

from collections.abc import Callable, Sequence

from parrot_jax.dialogue.phrases import answers_like_an_assistant, only_thanks
from parrot_jax.dialogue.repeats import comparable, most_similar
from parrot_jax.evaluate.build_config import BuildConfig

_JUDGED_CHARS = 20_000


class QuestionFilters:
    """Says why a text cannot be the next question."""

    def __init__(self, config: BuildConfig) -> None:
        """Loads the language classifier, if it is used."""
        self._config = config
        self._language: Callable[[str], tuple[str, float] | None] | None = None
        if config.language_switch is not None:
            from parrot_jax.dialogue.language import language_of

            self._language = language_of()

    def reason(
        self, text: str, earlier: Sequence[str], *, rejected: Sequence[str], dropped: Sequence[str]
    ) -> str:
        """Why a proposal is dropped; empty = it is not.

        Args:
          text: The proposal, not empty.
          earlier: The questions of the dialogue, at least one.
          rejected: Texts that a person rejected in this dialogue.
          dropped: Earlier proposals for the same turn.
        """
        config = self._config
        if not any(map(str.isalnum, text)):
            return "no question: it has no words"
        if len(text) < config.fewest_chars:
            return "too short"
        if len(text) > config.most_chars:
            return "too long"
        if only_thanks(text):
            return "thanks or good-bye"
        if answers_like_an_assistant(text):
            return "an answer, not a question"
        near = config.repeated_question
        for others, threshold, reason in (
            # A person's word holds even if the filter is off.
            (rejected, near or 100.0, "rejected by a person before"),
            (earlier, near, "repeats an earlier question"),
            (dropped, near or 100.0, "repeats a dropped proposal"),
        ):
            if threshold is not None and most_similar(
                comparable(text), list(map(comparable, others)), threshold
            ):
                return reason
        return self._switched_language(earlier[0], text)

    def _switched_language(self, first: str, text: str) -> str:
        from parrot_jax.dialogue.language import switched_language

        least = self._config.language_switch
        if self._language is None or least is None:
            return ""
        first, text = first[:_JUDGED_CHARS], text[:_JUDGED_CHARS]
        return "another language" if switched_language(self._language, first, text, least) else ""
