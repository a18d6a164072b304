"""Marks of a question that leans on what was said before: pronouns, and what is left out.

Lists of English words decide, without a parser: they are the same everywhere, and a reader can
check any verdict. They miss other languages, slips of the pen and references by description.
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

# A question of a few words that begins so goes on with what was said before.
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
    """Whether a personal pronoun of the third person or a demonstrative is among the words.

    What it refers to is not looked for: in a long question it may stand in the question itself.

    >>> has_pronoun(["make", "it", "short"]), has_pronoun(["make", "bread"])
    (True, False)

    Args:
      words: Of the question, from `normal_words`.
    """
    return not _PRONOUNS.isdisjoint(words)


def is_elliptical(words: Sequence[str]) -> bool:
    """Whether a question is short and lacks what a sentence needs.

    Short is at most 7 words. It lacks something if it begins as one that goes on ("and ...", "what
    about ...", "more ..."), or if no word of it is in a list of auxiliaries and of verbs that
    people use towards assistants.

    >>> [is_elliptical(text.split()) for text in ("and its river", "less formal", "make it less")]
    [True, True, False]

    Args:
      words: Of the question, from `normal_words`.
    """
    if not 1 <= len(words) <= MOST_WORDS_OF_ELLIPSIS:
        return False
    if any(tuple(words[: len(opening)]) == opening for opening in _CONTINUING_WORDS):
        return True
    return _VERB_FORMS.isdisjoint(words)
