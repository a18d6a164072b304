"""Reasoning in replies: all usual forms are found; texts that only mention the marks are not."""

import time

import pytest

from parrot_jax.dialogue.reasoning import split_reasoning


@pytest.mark.parametrize(
    ("text", "said", "reasoning"),
    [
        ("<think>\nHm.\n</think>\n\nParis.", "Paris.", "Hm."),
        ("  <thinking>Hm.</thinking>Paris.", "Paris.", "Hm."),
        ("<THINK>Hm.</Think >Paris.", "Paris.", "Hm."),
        ("<reasoning>Hm.</reasoning> Paris.", "Paris.", "Hm."),
        ("<thought>Hm.</thought> Paris.", "Paris.", "Hm."),
        ('<thinking budget="9">Hm.</thinking> Paris.', "Paris.", "Hm."),
        ("<seed:think>Hm.</seed:think>Paris.", "Paris.", "Hm."),
        ("[THINK]Hm.[/THINK]Paris.", "Paris.", "Hm."),
        ("◁think▷Hm.◁/think▷Paris.", "Paris.", "Hm."),
        ("<|begin_of_thought|>Hm.<|end_of_thought|>Paris.", "Paris.", "Hm."),
        ("<|thinking|>Hm.<|/thinking|>Paris.", "Paris.", "Hm."),
        ("<analysis>Hm.</analysis>\nParis.", "Paris.", "Hm."),
        ("<thought_process>Hm.</thought_process>\nParis.", "Paris.", "Hm."),
        ("<inner_monologue>Hm.</inner_monologue>\nParis.", "Paris.", "Hm."),
        ("<antThinking>Hm.</antThinking>\nParis.", "Paris.", "Hm."),
        ("&lt;think&gt;Hm.&lt;/think&gt;\nParis.", "Paris.", "Hm."),
        ("Hm.\n&lt;/think&gt;\n\nParis.", "Paris.", "Hm."),
        ("<unused94>thought\nHm.<unused95>Paris.", "Paris.", "Hm."),
        ('<details type="reasoning" done="true">\nHm.\n</details>\nParis.', "Paris.", "Hm."),
        ('<details open type="reasoning">Hm.</details>Paris.', "Paris.", "Hm."),
        ("Thinking...\nHm.\n...done thinking.\n\nParis.", "Paris.", "Hm."),
        ("```thinking\nHm.\n```\nParis.", "Paris.", "Hm."),
        ("```thinking\n```py\n1\n```\nHm.\n```\nParis.", "Paris.", "```py\n1\n```\nHm."),
        ("```thinking\nHm.", "", "Hm."),
        # R1-Zero also marks the answer.
        ("<think>Hm.</think><answer>Paris.</answer>", "Paris.", "Hm."),
        ("<think>Hm.</think>\n<answer>\nParis.\n</answer>\n", "Paris.", "Hm."),
        ("<think>Hm.</think><answer>Par", "Par", "Hm."),
        ("Hm.</think><answer>Paris.</answer>", "Paris.", "Hm."),
        # gpt-oss, with its marks, and from servers that remove special tokens.
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
            "Paris.<|return|>",
            "Paris.",
            "Hm.",
        ),
        ("<|channel|>analysis<|message|>Hm.", "", "Hm."),
        ("<|channel|>final<|message|>Paris.", "Paris.", ""),
        ("analysisHm.assistantfinalParis.", "Paris.", "Hm."),
        # Never closed; never opened, as DeepSeek-R1's template puts the opening mark in the prompt.
        ("<think>Hm, so", "", "Hm, so"),
        ("Hm.\n</think>\n\nParis.", "Paris.", "Hm."),
        ("Hm.</think>Paris.", "Paris.", "Hm."),
        ("Hm.</think>", "", "Hm."),
        ("I wonder about `<think>`.\n</think>\n\nParis.", "Paris.", "I wonder about `<think>`."),
        # Several blocks, nested blocks, and a mark that is only mentioned inside a block.
        ("<think>Hm.</think>\n<think>So.</think>\nParis.", "Paris.", "Hm.\n\nSo."),
        ("<think>Hm.</think>\nIt is\n<think>So.</think>\nParis.", "It is\n\nParis.", "Hm.\n\nSo."),
        ("<think>a<think>b</think>c</think>Paris.", "Paris.", "a<think>b</think>c"),
        ("<think>No <think> here.</think>Paris.", "Paris.", "No <think> here."),
        ("<think>\n\n</think>\n\nParis.", "Paris.", ""),
    ],
)
def test_the_usual_forms(text: str, said: str, reasoning: str) -> None:
    assert split_reasoning(text) == (said, reasoning)


@pytest.mark.parametrize(
    "text",
    [
        "Paris. ",
        "Write `<think>` before and `</think>` behind it.",
        "The </think> tag closes what the <think> tag opens.",
        "The </think> tag closes it.",
        "```python\nstop = '</think>'\n```",
        "```\nHm.\n</think>\n\nParis.\n```",
        '{"stop": "</think>"}',
        "Tags:\n- <think>\n- </think>\nThat is all.",
        "analysis of variance",
        "Analysis: it is Paris.",
        "[THINKING] of you",
        "<thinker>Rodin</thinker>",
        "<details>\n<summary>More</summary>\nParis.\n</details>",
        "Paris.\n\n</details>\n\nand\n</analysis>\n",
        "<answer>Paris.</answer>",
        "Thinking... it is Paris.",
        "Thinking...\nParis.",
        "```python\nthinking = 1\n```",
        "```\nthinking\n```",
        "Write &lt;think&gt; before it.",
    ],
)
def test_a_text_about_such_marks_stays_as_it_is(text: str) -> None:
    assert split_reasoning(text) == (text, "")


def test_code_behind_the_reasoning_stays_as_it_is() -> None:
    code = "```xml\n<think>Hm.</think>\n```"
    assert split_reasoning(f"<think>So.</think>{code}").text == code


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", " </think> ", "<think ", "a</think>", "<think></think>", "`", "```",
     "<think><think></think>", "<|channel|>", "<|message|>", "\n\n</think>", " ", "analysisA",
     "&lt;think&gt;", "&lt;", "<details ", "</details>\n",
     "Thinking...\n", "...done thinking.\n ", "\n```thinking", "```\n", "<answer>", "</answer>"],
)  # fmt: skip
def test_the_time_is_linear(piece: str) -> None:
    def seconds(chars: int) -> float:
        text = piece * (chars // len(piece))
        started = time.process_time()
        split_reasoning(text)
        split_reasoning(f"<think>a</think>{text}")
        return time.process_time() - started

    # A text 16 times as long; quadratic time would be 256 times as long. Measured twice, because
    # garbage collection may fall into one of them.
    long = min(seconds(80_000), seconds(80_000))
    assert long < 64 * max(seconds(5_000), 1e-3)
