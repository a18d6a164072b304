"""Regular-expression tests for thanks, refusals, assistant-like questions and counter-questions."""

import re

from parrot_jax.dialogue.words import normal_words

_THANKS = (
    r"(?:many )?thanks?(?: you)?(?: (?:so|very) much| a lot| again| for (?:your|the|all|this|that)"
    r"(?: \w+){0,3})?|thx|ty|cheers|much appreciated|i appreciate (?:it|that|your help)"
)
_GOODBYE = (
    r"(?:good ?)?bye(?: bye)?|good ?night|see you(?: later| soon)?|take care|talk to you later"
    r"|have a (?:nice|great|good|wonderful|lovely) (?:day|night|evening|one|weekend|time)(?: too)?"
)
# Longest alternatives first, to avoid backtracking.
_FILLER = (
    r"(?:that'?s )?all for (?:now|today)|ok(?:ay)?|oh|wow|great|good|perfect|awesome|nice|cool"
    r"|excellent|amazing|wonderful|alright"
    r"|(?:you'?re|you are) (?:very |most |so )?welcome|no problem|you too|(?:very )?helpful"
    r"|(?:that'?s|that is|that was|this is|it'?s) (?:all|it|great|good|perfect|(?:very )?helpful)"
    r"(?: for now)?|(?:it was )?(?:a )?pleasure|my pleasure"
    r"|chat ?gpt|and|then|so|for now|i hope|well"
)
_GAP = re.compile(r"[\s,.!:;)~-]*")
_PHRASE = re.compile(rf"(?:(?P<thanks>{_THANKS}|{_GOODBYE})|{_FILLER}){_GAP.pattern}", re.I)
_MOST_CHARS_OF_THANKS = 200
_SAYS_THANKS = re.compile(r"\b(?:thanks|thank ?(?:you|u)|thx|much appreciated)\b", re.I)
_OPENING_CHARS = 40

_CANNOT = r"(?:can(?:no|')t|can not|am (?:not able|unable)|'m (?:not able|unable)|won't)"
_REFUSAL = re.compile(
    r"^(?:i(?:'| a)m (?:very |really )?sorry|sorry|i apologi[sz]e|unfortunately)[,.]?\s+(?:but\s+)?"
    rf"(?:as an ai\b|i ?{_CANNOT}|i do(?: not|n't) have)"
    rf"|^as an ai (?:language )?model,? i ?(?:{_CANNOT}|do(?: not|n't)|am not)"
    rf"|^i ?{_CANNOT} (?:assist|help|fulfil|comply|provide|continue|generate|create|write)",
    re.I,
)

_ANSWERS_LIKE_AN_ASSISTANT = re.compile(
    r"^(?:certainly[!,.]|of course[!,]|absolutely[!,]|sure[!,] (?:here|i)|as an ai\b"
    r"|i(?:'d| would) be (?:happy|glad) to (?:help|assist)"
    r"|here(?:'s| is| are) (?:a|an|some|the|your)\b(?=.*:)"
    r"|(?:you'?re|you are) (?:very |most )?welcome\b|great question\b"
    r"|i(?:'m| am) (?:just )?(?:an ai|a language model)|how (?:can|may) i (?:help|assist) you)",
    re.I | re.S,
)


def only_thanks(text: str) -> bool:
    """Whether a text only thanks or says good-bye.

    >>> [only_thanks(t) for t in ("Great, thanks a lot!", "Bye.", "Thanks, and its river?", "Ok.")]
    [True, True, False, False]
    """
    if len(text) > _MOST_CHARS_OF_THANKS:
        return False
    # Phrase by phrase: a single pattern would backtrack over all divisions into phrases.
    place, says_it = 0, False
    phrase = _GAP.match(text)
    while phrase is not None:
        says_it = says_it or bool(phrase.groupdict().get("thanks"))
        place = phrase.end()
        phrase = _PHRASE.match(text, place) if place < len(text) else None
    return says_it and place == len(text)


def says_thanks(text: str) -> bool:
    """Whether a text contains thanks; in a long text, only the opening counts.

    >>> [says_thanks(text) for text in ("Thanks, and its river?", 20 * "Word, " + "thanks!" * 20)]
    [True, False]
    """
    is_short = len(text) <= _MOST_CHARS_OF_THANKS
    return _SAYS_THANKS.search(text if is_short else text[:_OPENING_CHARS]) is not None


def refuses(text: str) -> bool:
    """Whether an answer begins with a refusal.

    >>> refuses("I'm sorry, but I can't help with that."), refuses("Sorry for the delay: it is 7.")
    (True, False)
    """
    return _REFUSAL.search(text.strip()) is not None


def answers_like_an_assistant(text: str) -> bool:
    """Whether a question begins like a chat model's answer.

    >>> [answers_like_an_assistant(text) for text in ("Certainly! It is long.", "Are you sure?")]
    [True, False]
    """
    return _ANSWERS_LIKE_AN_ASSISTANT.search(text.strip()) is not None


def asks_back(text: str, *, most_words: int) -> bool:
    """Whether an answer is a short question and little else.

    >>> asks_back("Could you tell me more?", most_words=30), asks_back("It is 7.", most_words=30)
    (True, False)
    """
    return text.rstrip().endswith(("?", "？")) and len(normal_words(text)) <= most_words
