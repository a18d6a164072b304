import pytest

from parrot_jax.dialogue.markdown import HtmlConfig, convert_html, html_to_markdown
from parrot_jax.dialogue.types import Dialogue, Turn

PYTHON_BLOCK = (
    '<pre><div class="bg-black"><div class="flex"><span>python</span><button>Copy code</button>'
    '</div><div class="p-4"><code class="!whitespace-pre hljs language-python">'
    '<span class="hljs-keyword">def</span> f(a_b):\n    return a_b &lt; 2\n\n\n# *x*\n'
    "</code></div></div></pre>"
)


@pytest.mark.parametrize(
    "text",
    [
        "if a < b:\n    print(a > b)",
        "std::vector<int> x; map<string, vector<int>> y;",
        "#include <stdio.h>\nint main() {}",
        "```html\n<div><p>x</p></div>\n```",
        "How do I center a <div> in a <div>?",
        "<p>x</p> closes the paragraph, and then?",
        "Why is this wrong? <p>x</p>",
        "<html><body><p>x</p></body></html>",
        "<!DOCTYPE html>\n<p>x</p>",
        "<script>alert(1)</script>",
        "<p>vector<int> x</p>",
        "<MyComponent><div>x</div></MyComponent>",
        "<div><MyComponent /></div>",
        "<p>a<![foo</p>",
        "<b>bold</b>",
        "1 / 2 is a half",
        "a &lt; b &amp; c",
        "x<y and y>z",
        "",
    ],
)
def test_text_that_is_no_html_fragment_comes_through_unchanged(text):
    assert html_to_markdown(text) == text


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<p>Hi <strong>you</strong>, use <code>a_b</code>.</p>", "Hi **you**, use `a_b`."),
        ("<p>a &lt; b &amp;&amp; vector&lt;int&gt;</p>", "a < b && vector<int>"),
        ("<p>2*3*4 and snake_case</p>", "2*3*4 and snake_case"),
        ("<p>a<br>b<br/>\n  c</p>", "a\nb\nc"),
        ("<h2>T</h2><p>x</p><p>y</p>", "## T\n\nx\n\ny"),
        ("<ol><li><p>a</p></li><li>b<ul><li>c</li></ul></li></ol>", "1. a\n2. b\n   - c"),
        ("<table><tr><th>x</th></tr><tr><td>y</td></tr></table>", "| x |\n| --- |\n| y |"),
        ('<p><a href="http://a.b">c</a></p>', "[c](http://a.b)"),
        ("2 / 2<p>the second answer</p>", "the second answer"),
        ("<p>done</p>Copy12 chars / 3 words<p></p>", None),
        ("<div><p>done</p>Copy12 chars / 3 words</div>", "done"),
        ('<div class="whitespace-pre-wrap">a\n\n  b &amp; c</div>', "a\n\n  b & c"),
        ("<p></p>", ""),
    ],
)
def test_an_html_fragment_becomes_markdown(html, markdown):
    assert html_to_markdown(html) == (html if markdown is None else markdown)


def test_a_code_block_loses_its_button_and_keeps_every_character():
    text = html_to_markdown(f'<div class="markdown prose"><p>See:</p>{PYTHON_BLOCK}</div>')
    code = "def f(a_b):\n    return a_b < 2\n\n\n# *x*"
    assert text == f"See:\n\n```python\n{code}\n```"


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<pre>x = 1\n  y</pre>", "```\nx = 1\n  y\n```"),
        ("<pre>pythonCopy code<code>x = 1</code></pre>", "```python\nx = 1\n```"),
        ('<pre><code class="hljs language-c++">int x;</code></pre>', "```c++\nint x;\n```"),
        ("```\npythonCopy code\nx = 1\n```", "```python\nx = 1\n```"),
    ],
)
def test_code_blocks_of_older_exports_get_their_language(html, markdown):
    assert html_to_markdown(html) == markdown


def test_a_formula_becomes_its_tex():
    katex = (
        '<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>x</mi></mrow>'
        '<annotation encoding="application/x-tex">x_1</annotation></semantics></math></span>'
        '<span class="katex-html"><span>x1</span></span></span>'
    )
    assert html_to_markdown(f"<p>so {katex} holds</p>") == "so $x_1$ holds"
    display = f'<span class="katex-display">{katex}</span>'
    assert html_to_markdown(f"<p>{display}</p>") == "$$x_1$$"


def test_absurd_nesting_is_left_alone():
    text = "<div>" * 5000 + "<p>x</p><p>y</p>" + "</div>" * 5000
    assert html_to_markdown(text) == text


def dialogue(*texts):
    roles = ("user", "assistant")
    return Dialogue(turns=tuple(Turn(roles[n % 2], text) for n, text in enumerate(texts)))


def test_html_that_a_user_pasted_stays_and_html_of_the_export_goes():
    pasted, exported = "<div><p>x</p></div>", '<div class="whitespace-pre-wrap">x</div>'
    result = convert_html(dialogue(pasted, "<p>a</p>", exported, "b"), HtmlConfig())
    assert [turn.text for turn in result.turns] == [pasted, "a", "x", "b"]
    result = convert_html(dialogue(pasted, "b"), HtmlConfig(all_user_turns=True))
    assert result.turns[0].text == "x"


def test_a_dialogue_without_html_is_given_back_itself():
    plain = dialogue("if a < b", "yes")
    assert convert_html(plain, HtmlConfig()) is plain


def test_turns_that_become_blank_are_repaired():
    result = convert_html(dialogue("q1", "<p></p>", "q2", "a2"), HtmlConfig())
    assert [turn.text for turn in result.turns] == ["q1\n\nq2", "a2"]
    config = HtmlConfig(all_user_turns=True)
    assert convert_html(dialogue("<p> </p>"), config) == "blank after removing HTML"
