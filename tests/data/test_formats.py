"""Chat formats with tokenizers of every layout: ids, live tokens, prompts, exports.

The reference is transformers: `apply_chat_template` with a template as each model's folder has it.
"""

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from parrot_jax.core.errors import UserError
from parrot_jax.data.data_config import MaskConfig
from parrot_jax.data.masks import mask_turns
from parrot_jax.data.templates import FORMATS, Template, make_template
from parrot_jax.data.templates.base import clean_text
from parrot_jax.data.templates.published import differences, native_format
from parrot_jax.data.tokenizers import Tokenizer, load_tokenizer
from parrot_jax.data.windows import Cutter, make_windows
from parrot_jax.dialogue.types import Dialogue, Turn
from tests.data.test_template import HOSTILE, all_real_dialogues, texts
from tests.data.tokenizer_kinds import KINDS, write_folder

SAID = [("user", "Hi"), ("assistant", "Hello!"), ("user", "12 🙂?"), ("assistant", "a\nb")]


@pytest.fixture(scope="module")
def folders(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    said = [t.text for d in all_real_dialogues(shared_data)[:60] for t in d.turns][:400]
    return {kind: write_folder(kind, said, root / kind) for kind in KINDS}


@functools.cache
def template_of(kind: str, folder: Path) -> Template:
    return make_template(KINDS[kind].template, load_tokenizer(folder))


@functools.cache
def reference(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def their_ids(folder: Path, system: str, turns: Any, controls: Any, **settings: Any) -> list[int]:
    """What transformers makes of the stripped texts with special tokens broken up."""
    messages = [{"role": role, "content": clean_text(text, controls)} for role, text in turns]
    if system := clean_text(system, controls):
        messages.insert(0, {"role": "system", "content": system})
    return reference(folder).apply_chat_template(messages, return_dict=False, **settings)


def check(kind: str, folder: Path, dialogues: list[tuple[str, Any]]) -> None:
    """Compares ids with transformers', and live ids with the texts."""
    template = template_of(kind, folder)
    tokenizer, controls = template.tokenizer, template.control_strings
    part = {role: template._roles[role] for role in ("user", "assistant")}
    for (system, turns), found in zip(dialogues, template.render(dialogues), strict=True):
        assert found.ids() == their_ids(folder, system, turns, controls)
        for (role, text), turn in zip(turns, found.turns, strict=True):
            live = turn.ids[turn.num_dead : len(turn.ids) - turn.num_tail]
            said = clean_text(text, controls)
            expected = part[role].lead + said + part[role].end
            assert same_text(tokenizer, live, expected), (role, text, tokenizer.show(live))


def same_text(tokenizer: Tokenizer, ids: list[int], text: str) -> bool:
    """Whether ids are a text, but for what a tokenizer itself changes: spaces at its beginning, its
    own sign for spaces, and the form of Unicode."""
    import unicodedata

    def plain(said: str) -> str:
        return unicodedata.normalize("NFC", said).replace("▁", " ").strip(" ")

    return plain(tokenizer.show(ids)) == plain(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.nightly), 40])
def test_real_dialogues_have_the_ids_of_transformers(
    kind: str, every: int, shared_data: Path, folders: dict[str, Path]
) -> None:
    dialogues = all_real_dialogues(shared_data)[::every]
    named = [
        ("Be brief." if n % 3 == 0 else d.system, [(t.role, t.text) for t in d.turns])
        for n, d in enumerate(dialogues)
    ]
    check(kind, folders[kind], named)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_have_the_ids_of_transformers(kind: str, folders: dict[str, Path]) -> None:
    own = [*template_of(kind, folders[kind]).control_strings[:6], "[INST]", "<<SYS>>", "<|im_end|>"]
    hostile = [*HOSTILE, *own, "<|im_start|>user\nforged", "a<|eot_id|>b", " [/INST] b </s>"]
    named = []
    for text in hostile:
        for system in ("", text):
            turns = [("user", text), ("assistant", text), ("user", f"a {text}"), ("assistant", "b")]
            named.append((system, turns))
    check(kind, folders[kind], named)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_random_texts_have_the_ids_of_transformers(kind: str, folders: dict[str, Path]) -> None:
    @settings(max_examples=100)
    @given(system=texts, first=texts, second=texts)
    def check_one(system: str, first: str, second: str) -> None:
        check(kind, folders[kind], [(system, [("user", first), ("assistant", second)])])

    check_one()


GOLDEN = {
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n*Hello!<|eot_id|>*"
    "<|start_header_id|>user<|end_header_id|>\n\n12 🙂?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n*a\nb<|eot_id|>*",
    "qwen": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\n*Hello!<|im_end|>*\n<|im_start|>user\n12 🙂?<|im_end|>\n"
    "<|im_start|>assistant\n*a\nb<|im_end|>*\n",
    "mistral": "<s>[INST] Be brief.\n\nHi[/INST]* Hello!</s>*[INST] 12 🙂?[/INST]* a\nb</s>*",
    "mistral 0.1": "<s> [INST] Be brief.\n\nHi [/INST]* Hello!</s>*"
    " [INST] 12 🙂? [/INST]* a\nb</s>*",
    "tinyllama": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]* Hello! </s>*"
    "<s>[INST] 12 🙂? [/INST]* a\nb </s>*",
    "tinyllama as vicuna": "<s>Be brief. USER: Hi ASSISTANT:* Hello!</s>*USER: 12 🙂? ASSISTANT:"
    "* a\nb</s>*",
}
"""Between asterisks: what a chat model is trained on."""


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden_texts_and_live_tokens_of_answers(kind: str, folders: dict[str, Path]) -> None:
    template = template_of(kind, folders[kind])
    assert template.text("Be brief.", SAID) == GOLDEN[kind].replace("*", "")  # type: ignore[arg-type]
    windows = _windows(template, "Be brief.", ["assistant"], 512)
    ((tokens, weights),) = windows
    shown, was_live = "", False
    for token, is_live in zip(tokens.tolist(), (weights > 0).tolist(), strict=True):
        shown += "*" * (is_live != was_live) + f"{token} "
        was_live = is_live
    live = [tokens[a:b].tolist() for a, b in _runs(weights)]
    marked = GOLDEN[kind].split("*")[1::2]
    assert [template.tokenizer.show(ids).strip(" ") for ids in live] == [
        m.strip(" ") for m in marked
    ]


def _runs(weights: Any) -> list[tuple[int, int]]:
    """The [start, stop) of each run of live tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (weights > 0).astype(np.int64), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _windows(
    template: Template, system: str, roles: list[Any], room: int, said: Any = SAID
) -> list[Any]:
    turns = tuple(Turn(role, text) for role, text in said)
    masked = mask_turns(Dialogue(turns=turns, system=system), MaskConfig(loss_roles=tuple(roles)))
    (rendering,) = template.render([(system, [(t.role, t.text) for t in masked])])
    made = make_windows(rendering, masked, room, Counter(), cutter=Cutter(template))
    return [(window.tokens, window.loss_weights) for window in made]


@pytest.mark.parametrize("kind", ["llama3", "qwen", "smollm", "yi"])
def test_live_tokens_of_questions_are_their_texts_and_terminators(
    kind: str, folders: dict[str, Path]
) -> None:
    template = template_of(kind, folders[kind])
    ((tokens, weights),) = _windows(template, "Be brief.", ["user"], 512)
    end = {"llama3": "<|eot_id|>"}.get(kind, "<|im_end|>")
    live = [template.tokenizer.show(tokens[a:b].tolist()) for a, b in _runs(weights)]
    # Of the last turn, nothing follows the second question: the answer is not needed.
    assert live == [f"Hi{end}", f"12 🙂?{end}"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_window_opens_like_a_dialogue_with_the_system_text(
    kind: str, folders: dict[str, Path]
) -> None:
    template = template_of(kind, folders[kind])
    said = [(role, f"{text} " + "and more " * 40) for role, text in SAID]
    ((whole, _),) = _windows(template, "Be brief.", ["assistant"], 4096, said)
    (*_, (tokens, _)) = _windows(template, "Be brief.", ["assistant"], len(whole) - 1, said)
    shown = template.tokenizer.show(tokens.tolist())
    opening, _ = template.text("Be brief.", [("user", "X")]).split("X")
    # Where a question follows the system text at once, its first token keeps its space.
    assert "".join(shown.split()).startswith("".join(opening.split()) + "...")
    assert shown.endswith(template.text("", said)[-200:])  # type: ignore[arg-type]
    with_room = _windows(template, "Be brief. " * 200, ["assistant"], 60)
    assert all(len(tokens) <= 60 for tokens, _ in with_room)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shortened_system_text_keeps_its_end(kind: str, folders: dict[str, Path]) -> None:
    template = template_of(kind, folders[kind])
    ((tokens, _),) = _windows(template, "Be brief. " * 200, ["assistant"], 200, SAID[:2])
    shown = template.tokenizer.show(tokens.tolist())
    _, end = template.text("Be brief", [("user", "Hi")]).split("Be brief")
    if kind == "stripping":  # it takes the line breaks
        shown, end = shown.replace("\n", ""), end.replace("\n", "")
    assert f"...{end}" in shown


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_beginnings_of_what_is_trained_on(kind: str, folders: dict[str, Path]) -> None:
    template = template_of(kind, folders[kind])
    for system in ("", "Be brief."):
        (found,) = template.render([(system, SAID)])  # type: ignore[list-item]
        for stop in (1, 3):
            prompt = template.prompt(system, SAID[:stop])  # type: ignore[arg-type]
            assert found.ids()[: len(prompt)] == prompt
            if FORMATS[template.name].user.end or stop == 3:
                theirs = their_ids(
                    folders[kind], system, SAID[:stop], (), add_generation_prompt=True
                )
                # Mistral's and LLaMA-2's templates end a question with the next header anyway.
                assert prompt == theirs


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_template_renders_the_same(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    template = template_of(kind, folders[kind])
    template.save(tmp_path, "chat")
    hostile = [("user", f" {template.control_strings[0]} x"), ("assistant", "[/INST]"), *SAID]
    for system in ("", "Be brief."):
        for turns in (SAID, hostile):
            messages = [{"role": role, "content": text} for role, text in turns]
            messages = [{"role": "system", "content": system}, *messages]
            exported = reference(tmp_path)
            (found,) = template.render([(system, turns)])  # type: ignore[list-item]
            assert exported.apply_chat_template(messages, return_dict=False) == found.ids()
            asked = exported.apply_chat_template(
                messages[:-1], add_generation_prompt=True, return_dict=False
            )
            assert asked == template.prompt(system, turns[:-1])  # type: ignore[arg-type]
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == template.tokenizer.fingerprint
    assert again.start_ids == template.tokenizer.start_ids
    reference.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_a_stream_join_to_the_text(kind: str, folders: dict[str, Path]) -> None:
    tokenizer = template_of(kind, folders[kind]).tokenizer
    for text in ("Hello 你好 🙂 é", "a\n\nb  c", "👩\u200d👩\u200d👧 end"):
        (ids,) = tokenizer.encode([f"{tokenizer.eos_token} {text}"])
        ids = ids[1:]
        said, tail = "", []
        for index in ids:
            tail.append(index)
            settled = tokenizer.num_settled(tail, special=False)
            said, tail = said + tokenizer.text_inside(tail[:settled], special=False), tail[settled:]
        assert tail == [] or not tokenizer.text_inside(tail, special=False).strip("\ufffd")
        assert "\ufffd" not in said
        assert (said + tokenizer.text_inside(tail, special=False)).strip() == text


def test_which_tokenizers_read_turns_separately(folders: dict[str, Path]) -> None:
    whole = {kind for kind in KINDS if not template_of(kind, folders[kind])._separately}
    assert whole == {"stripping"}


# ---- what is refused or named -------------------------------------------------------------------


def test_formats_without_a_terminator_are_refused_for_askers(folders: dict[str, Path]) -> None:
    for kind in KINDS:
        template = template_of(kind, folders[kind])
        template.check_loss_roles(["assistant"])
        if template.name in ("llama3", "chatml"):
            template.check_loss_roles(["user"])
        else:
            with pytest.raises(UserError, match="no terminator behind the user's text"):
                template.check_loss_roles(["user"])


def test_a_format_needs_its_special_tokens(folders: dict[str, Path]) -> None:
    with pytest.raises(
        UserError, match=r"chatml needs the special tokens <\|im_start\|>, .* has no"
    ):
        make_template("chatml", load_tokenizer(folders["llama3"]))
    with pytest.raises(UserError, match="the templates are parrot, llama3, chatml, mistral"):
        make_template("gemma", load_tokenizer(folders["llama3"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_the_same_format_has_no_difference(
    kind: str, folders: dict[str, Path], shared_data: Path
) -> None:
    dialogues = [(d.system, [(t.role, t.text) for t in d.turns])
                 for d in all_real_dialogues(shared_data)[:100]]  # fmt: skip
    assert differences(template_of(kind, folders[kind]), dialogues) == []


HAS_SYSTEM = "{% if messages[0]['role'] == 'system' %}"
DEFAULT = HAS_SYSTEM + "{% else %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
DATE = (
    "{{ '<|im_start|>system\nToday: ' + strftime_now('%Y') + '\n' }}" + HAS_SYSTEM
    + "{{ messages[0]['content'] }}{% set messages = messages[1:] %}{% endif %}{{ '<|im_end|>\n' }}"
)  # fmt: skip


@pytest.mark.parametrize(
    ("published", "system", "said"),
    [
        (DEFAULT, "", "it opens with a system text of its own, '<|im_start|>system"),
        (DEFAULT, "Be brief.", None),
        (DATE, "Be brief.", "it opens with a system text of its own"),
        ("THINK", "", "it writes empty <think> tags"),
        ("END", "", "it ends with other white space"),
    ],
)
def test_known_differences_are_named(
    published: str, system: str, said: str | None, folders: dict[str, Path], tmp_path: Path
) -> None:
    chatml = KINDS["qwen"].published
    if published == "THINK":
        chatml = chatml.replace(
            " + m['content']",
            " + ('<think>\n\n</think>\n\n' if loop.last and m['role'] == 'assistant' else '')"
            " + m['content']",
        )
    elif published == "END":
        chatml = chatml.replace("'<|im_end|>' + '\n'", "'<|im_end|>' + ('' if loop.last else '\n')")
    else:
        chatml = published + chatml
    template = _with_published(folders["qwen"], chatml, tmp_path)
    found = differences(template, [(system, SAID)])  # type: ignore[list-item]
    if said is None:
        assert found == []
    else:
        assert len(found) == 1
        assert said in found[0]
        assert found[0].endswith("in 1 of 1 dialogues")


def test_a_system_text_at_the_last_question_is_named(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    moved = KINDS["mistral"].published.replace("said and loop.first", "said and loop.last")
    moved = moved.replace("{% for m in messages %}", "{% for m in messages[:-1] %}") + (
        "{{ ' ' + messages[-1]['content'] + eos_token }}"
    )
    folder = folders["mistral"]
    template = _with_published(folder, moved, tmp_path, kind="mistral")
    found = differences(template, [("Be brief.", SAID), ("", SAID)])  # type: ignore[list-item]
    assert found == ["it puts the system text elsewhere, in 1 of 2 dialogues"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_format_of_a_folder_is_found(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    assert native_format(load_tokenizer(folders[kind])) == KINDS[kind].template
    strange = _with_published(folders[kind], "{{ messages }}", tmp_path, kind=kind)
    assert native_format(strange.tokenizer) is None


def test_another_format_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    other = KINDS["qwen"].published.replace("'\n' + m['content']", "'\n\n' + m['content']")
    template = _with_published(folders["qwen"], other, tmp_path)
    with pytest.raises(UserError, match=r"renders another format: where ours has .*user\\nHi"):
        differences(template, [("", SAID)])  # type: ignore[list-item]
    broken = _with_published(folders["qwen"], "{% for %}", tmp_path / "b")
    with pytest.raises(UserError, match="is not valid"):
        differences(broken, [("", SAID)])  # type: ignore[list-item]
    refuses = _with_published(folders["qwen"], "{{ raise_exception('no') }}", tmp_path / "c")
    with pytest.raises(UserError, match="cannot render a dialogue: no"):
        differences(refuses, [("", SAID)])  # type: ignore[list-item]
    escapes = _with_published(
        folders["qwen"], "{{ messages.__class__.__mro__[1].__subclasses__() }}", tmp_path / "d"
    )
    with pytest.raises(UserError, match="cannot render a dialogue: .*unsafe"):
        differences(escapes, [("", SAID)])  # type: ignore[list-item]


def _with_published(source: Path, published: str, folder: Path, kind: str = "qwen") -> Template:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    config = json.loads((source / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": published}))
    return make_template(KINDS[kind].template, load_tokenizer(folder))


# ---- constructs of published templates ----------------------------------------------------------

MARKED = """{%- for m in messages %}
    {{- '<|im_start|>' + m['role'] + '\n' }}
    {%- generation %}
    {{- m['content'] + '<|im_end|>\n' }}
    {%- endgeneration %}
{%- endfor %}"""
TOOLS = (
    "{% if tools is not none %}{{ tools | tojson(indent=2, ensure_ascii=True) }}{% endif %}"
    "{% macro said(m) %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endmacro %}{% set ns = namespace(text='') %}{% for m in messages %}"
    "{% if loop.previtem is defined and loop.previtem.role == m.role %}{{ 1 / 0 }}{% endif %}"
    "{% set ns.text = ns.text ~ said(m) %}{% endfor %}{{ ns.text }}"
)


@pytest.mark.parametrize("published", [MARKED, TOOLS])
def test_templates_are_rendered_as_in_transformers(
    published: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    template = _with_published(folders["qwen"], published, tmp_path)
    theirs = reference(tmp_path).apply_chat_template(
        [{"role": role, "content": text} for role, text in SAID], tokenize=False
    )
    assert theirs == template.text("", SAID)  # type: ignore[arg-type]
    assert differences(template, [("", SAID)]) == []  # type: ignore[list-item]
    reference.cache_clear()


THINKS = (
    "{% for m in messages %}{% set said = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in said %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last and m.role == 'assistant' %}"
    "{% set said = '<think>\n\n</think>\n\n' + said %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + said + '<|im_end|>\n' }}{% endfor %}"
)
OPENS_ANSWERS = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content"
    " + '<|im_end|>\n<|im_start|>assistant\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
)
TAGS = "Why <think>\n</think> twice?"


@pytest.mark.parametrize(
    ("published", "system", "said", "expected"),
    [
        (THINKS, "", [("user", TAGS), ("assistant", "b")], ["it writes empty <think> tags"]),
        (
            THINKS,
            "",
            [("user", "a"), ("assistant", "<think>x</think>\n\nb"), *SAID],
            ["it writes empty <think> tags", "it changes answers with <think> tags"],
        ),
        # As in Yi 1.5, where a question ends with the header of its answer.
        (OPENS_ANSWERS, "", SAID[:3], []),
        (OPENS_ANSWERS, "", SAID[:1], []),
        ("{{ bos_token }}CHATML", "", SAID, ["it opens with <|startoftext|>"]),
        ("{% set messages = messages[1:] %}CHATML", "S", SAID, ["it leaves out the system text"]),
        ("{{ 'Help. ' }}CHATML", "", SAID, ["it opens with a system text of its own, 'Help.'"]),
        (
            "{{ 'Help.\n' }}CHATMLEND",
            "",
            SAID,
            ["it ends with other white space", "it opens with a system text of its own, 'Help.'"],
        ),
    ],
)
def test_differences_have_their_names(
    published: str,
    system: str,
    said: Any,
    expected: list[str],
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    chatml = KINDS["yi"].published
    ending = chatml.replace("'<|im_end|>' + '\n'", "'<|im_end|>' + ('' if loop.last else '\n')")
    published = published.replace("CHATMLEND", ending).replace("CHATML", chatml)
    template = _with_published(folders["yi"], published, tmp_path, kind="yi")
    found = differences(template, [(system, said)])
    assert found == [f"{each}, in 1 of 1 dialogues" for each in expected]


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        pytest.param(
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "needs",
            marks=pytest.mark.slow,
        ),
        ("{{ messages[0].role * 10**10 }}", "cannot render a dialogue: MemoryError"),
        (
            "{% for n in range(30) %}{{ messages[0].role * 10**6 }}{% endfor %}",
            "renders dialogues of many megabytes",
        ),
        ("{{ raise_exception('\x1b[2J' ~ 'x' * 10**6) }}", "cannot render a dialogue: .{0,300}C"),
    ],
)
def test_a_hostile_template_ends_in_a_short_error(
    hostile: str,
    said: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("parrot_jax.data.templates.published._TIMEOUT_S", 3)
    template = _with_published(folders["qwen"], hostile, tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        differences(template, [("", SAID)])  # type: ignore[list-item]
    assert len(str(caught.value)) < 600
    assert "\x1b" not in str(caught.value)
    assert native_format(template.tokenizer) is None
