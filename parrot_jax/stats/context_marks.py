"""Detects questions that depend on context, by pronouns and ellipsis.

Uses lists of English words instead of a parser: this is deterministic, and easy to check by hand.
It misses other languages, typos and references by description.
"""

from collections.abc import Sequence

MOST_WORDS_OF_ELLIPSIS = 7

_PRONOUNS = frozenset(
    {
        *("it", "its", "itself", "they", "them", "their", "theirs", "themselves"),
        *("he", "him", "his", "himself", "she", "her", "hers", "herself"),
        *("this", "that", "these", "those"),
    }
)

# A short question with one of these openings continues the dialogue.
_CONTINUING = (
    *("and", "or", "but", "also", "plus", "then", "not", "same", "again", "instead", "another"),
    *("more", "less", "what about", "how about", "what else", "anything else", "why not"),
    *("how so", "which one", "which ones", "like what", "such as", "go on", "go ahead"),
    *("continue", "proceed", "try again"),
)
_CONTINUING_WORDS = tuple(tuple(opening.split()) for opening in _CONTINUING)

_AUXILIARIES = (
    "am is are was were be been being do does did done has have had can could will would shall "
    "should may might must cant cannot dont doesnt didnt isnt arent wasnt wont wouldnt couldnt "
    "shouldnt hasnt havent im ive id ill youre its thats whats whos lets let"
)
_VERBS = (
    "act add adapt adjust advise allow analyse analyze answer apply ask assume avoid base become "
    "begin believe bring build calculate call categorize change check choose combine come "
    "compare complete compose consider continue convert copy correct cost count cover create "
    "deal debug define delete depend describe design develop differ discuss display draft draw "
    "edit elaborate eliminate end enhance ensure evaluate exist expand explain express extend "
    "fill find finish fix focus follow format forget formulate gave generate get getting give "
    "given go goes going got guess happen happened happens help helps hold identify imagine "
    "implement import improve include increase insert install introduce invent keep know learn "
    "leave lengthen like list look looks lose love made make makes making match mean means meant "
    "mention modify move name need needs offer open optimize organize outline paraphrase pick "
    "play please plot practice predict prefer prepare present print proceed produce proofread "
    "book equals propose prove provide put quote rank rate read reads recommend redo reduce refer "
    "refactor regenerate remember remove rename reorder repeat rephrase replace reply respond "
    "return review revise reword rewrite rewritten rhyme run said save say says search see seem "
    "seems select sell send separate set shorten show simplify solve sort sound speak specify "
    "spell split start state stop structure suggest sum summarise summarize support take talk "
    "teach tell test think thought translate treat tried try turn type understand update use used "
    "uses using verify visit want wanted wants watch went work works write written wrote"
)
_VERB_FORMS = frozenset((_AUXILIARIES + " " + _VERBS).split())


def has_pronoun(words: Sequence[str]) -> bool:
    """Whether the words include a third-person pronoun or a demonstrative.

    Its referent is not checked: in a long question it may be in the question itself.

    >>> has_pronoun(["make", "it", "short"]), has_pronoun(["make", "bread"])
    (True, False)

    Args:
      words: The words of the question, from `normal_words`.
    """
    return not _PRONOUNS.isdisjoint(words)


def is_elliptical(words: Sequence[str]) -> bool:
    """Whether a question is short and elliptical.

    Short means at most 7 words. It is elliptical if it begins with a continuation ("and ...", "what
    about ...", "more ..."), or has no word from a list of auxiliaries and verbs that people use
    with assistants.

    >>> [is_elliptical(text.split()) for text in ("and its river", "less formal", "make it less")]
    [True, True, False]

    Args:
      words: The words of the question, from `normal_words`.
    """
    if not 1 <= len(words) <= MOST_WORDS_OF_ELLIPSIS:
        return False
    if any(tuple(words[: len(opening)]) == opening for opening in _CONTINUING_WORDS):
        return True
    return _VERB_FORMS.isdisjoint(words)
