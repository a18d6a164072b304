"""Converts the HTML of chat exports to Markdown.

Raw ShareGPT contains the HTML of the browser: paragraphs, lists, code blocks with a "Copy code"
button, KaTeX formulas. Plain text may also have angle brackets (`if a < b`, `vector<int>`, a
question about `<div>`), and converting it would destroy it. So a text is converted only if it is
one HTML fragment from its first character to its last.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from parrot_jax.dialogue.turns import repair_turns
from parrot_jax.dialogue.types import Dialogue, Turn

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

BLANK_WITHOUT_HTML = "blank after removing HTML"

# "2 / 2" is the counter of regenerated answers, which the export put first.
_ANSWER_COUNTER = re.compile(r"\s*\d{1,3} / \d{1,3}\s*(?=<)")
_BLOCK_START = re.compile(r"\s*<(?:div|p|pre|ol|ul|h[1-6]|table|blockquote|hr)\b[^<>]*>", re.I)
_EXPORT_CLASS = re.compile(r"whitespace-pre-wrap|\bmarkdown prose\b|\bbreak-words\b")
_WORD_COUNT = re.compile(r"Copy\d+ chars / \d+ words")
_LANGUAGE = re.compile(r"[\w+#.-]{1,20}")
# A code block that is already Markdown, but still has the button's text.
_COPY_CODE_LINE = re.compile(r"^(```)[ \t]*\n?[ \t]*([\w+#.-]{0,20}?)Copy code[ \t]*\n", re.M)
_TAGS = frozenset(
    re.findall(
        r"\w+",
        """
        a abbr annotation b big blockquote br button caption center circle cite code col
        colgroup dd defs del details div dl dt em figcaption figure font g h1 h2 h3 h4 h5 h6
        hr i img input ins kbd label li line mark math mfrac mi mn mo mover mpadded mphantom
        mroot mrow ms mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder
        munderover ol p path polygon polyline pre q rect s samp section semantics small span
        strike strong sub summary sup svg table tbody td text tfoot th thead time title tr
        tt u ul use var video
        """,
    )
)


@dataclass(frozen=True, kw_only=True)
class HtmlConfig:
    """Convert the HTML of raw ShareGPT to Markdown; text that is not all HTML is unchanged."""

    all_user_turns: bool = False
    """Also convert user turns that are HTML without the class names of the ChatGPT page. These are
    mostly pasted code."""


def html_to_markdown(text: str, *, only_exported: bool = False) -> str:
    """Converts a text that is an HTML fragment to Markdown; returns any other text unchanged.

    An HTML fragment starts with a block tag (`<p>`, `<div>`, `<pre>`, ...), ends with a tag, has no
    text outside its tags and only tags that chat pages use. Code keeps every character.

    Args:
      text: One turn.
      only_exported: Convert only text with the class names of the ChatGPT page.

    Returns:
      The Markdown, or `text` itself.

    >>> html_to_markdown("<p>Use <code>a &lt; b</code>.</p>")
    'Use `a < b`.'
    >>> html_to_markdown("How do I center a <div>?")
    'How do I center a <div>?'
    """
    body = _ANSWER_COUNTER.sub("", text, count=1)
    start = _BLOCK_START.match(body)
    if not start or not body.rstrip().endswith(">"):
        return _COPY_CODE_LINE.sub(r"\1\2\n", text)
    if only_exported and not _EXPORT_CLASS.search(start.group()):
        return text
    from bs4 import BeautifulSoup
    from bs4.exceptions import ParserRejectedMarkup

    try:
        soup = BeautifulSoup(body, "html.parser")
        return _fragment_to_markdown(soup) if _is_fragment(soup) else text
    # Markup that the parser rejects, or extreme nesting, is not a chat page.
    except (ParserRejectedMarkup, AssertionError, RecursionError):
        return text


def convert_html(dialogue: Dialogue, config: HtmlConfig) -> Dialogue | str:
    """Converts the turns that are HTML, and repairs turns that become blank.

    Args:
      dialogue: Any dialogue.
      config: Which user turns to convert.

    Returns:
      The dialogue (the same object if nothing changed), or the reason why nothing is left.
    """
    turns = tuple(
        _convert_turn(turn, only_exported=turn.role == "user" and not config.all_user_turns)
        for turn in dialogue.turns
    )
    if turns == dialogue.turns:
        return dialogue
    repaired = repair_turns(turns, Counter())
    return replace(dialogue, turns=repaired) if repaired else BLANK_WITHOUT_HTML


def _convert_turn(turn: Turn, *, only_exported: bool) -> Turn:
    text = html_to_markdown(turn.text, only_exported=only_exported)
    return turn if text == turn.text else replace(turn, text=text)


def _is_fragment(soup: "BeautifulSoup") -> bool:
    has_outer_text = any(
        str(child).strip() for child in soup.find_all(string=True, recursive=False)
    )
    return not has_outer_text and all(tag.name in _TAGS for tag in soup.find_all(True))


def _fragment_to_markdown(soup: "BeautifulSoup") -> str:
    from bs4.element import NavigableString
    from markdownify import MarkdownConverter

    plain = _plain_box(soup)
    if plain is not None:
        return plain
    for pre in soup.find_all("pre"):
        _reduce_to_code(pre)
    for tag in soup.find_all(["button", "svg"]):
        tag.decompose()
    for formula in soup.find_all("span", class_="katex"):
        _reduce_to_tex(formula)
    for line_break in soup.find_all("br"):
        # As in a browser, white space of the source after a break is ignored.
        behind = line_break.next_sibling
        if isinstance(behind, NavigableString):
            behind.replace_with(behind.lstrip())
        line_break.replace_with("\n")
    converter = MarkdownConverter(
        heading_style="atx",
        bullets="-",
        # The text is for a model, not a renderer: a_b must not become a\_b.
        escape_asterisks=False,
        escape_underscores=False,
        code_language_callback=lambda pre: pre.get("data-language", ""),
    )
    return _WORD_COUNT.sub("", converter.convert_soup(soup)).strip()


def _plain_box(soup: "BeautifulSoup") -> str | None:
    """The text of nested boxes that contain only text, with line breaks: the form of user turns."""
    tag: Tag | BeautifulSoup = soup
    while True:
        inner = tag.find_all(True, recursive=False)
        if not inner:
            return tag.get_text().strip()
        if len(inner) > 1 or inner[0].name != "div" or tag.find(string=True, recursive=False):
            return None
        tag = inner[0]


def _reduce_to_code(pre: "Tag") -> None:
    """Reduces a `<pre>` to its code; its label ("python" above the button) becomes an attribute."""
    for button in pre.find_all("button"):
        button.decompose()
    code = pre.find("code")
    label, text = "", pre.get_text()
    if code is not None:
        text = code.get_text()
        code.extract()
        label = pre.get_text().replace("Copy code", "").strip()
        if not _LANGUAGE.fullmatch(label):
            classes = code.get("class") or []
            named = [name.removeprefix("language-") for name in classes if "language-" in name]
            label = named[0] if named else ""
    pre.clear()
    pre.string = text
    if _LANGUAGE.fullmatch(label):
        pre["data-language"] = label


def _reduce_to_tex(formula: "Tag") -> None:
    source = formula.find("annotation")
    if source is not None:
        is_display = formula.find_parent(class_=("katex-display", "math-display")) is not None
        mark = "$$" if is_display else "$"
        formula.replace_with(f"{mark}{source.get_text().strip()}{mark}")
