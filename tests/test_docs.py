"""The documentation: links, commands, file names and quoted messages."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from parrot_jax.cli import VERBS, parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "scripts" / "launch" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TEXTS = {name: page.read_text() for name, page in zip(NAMES, PAGES, strict=True)}
FENCE = re.compile(r"^ *```.*?^ *```", re.M | re.S)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub and MkDocs generate from the headings of a page."""
    headings = re.findall(r"^#+ (.+)", FENCE.sub("", text), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[name])):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def bash_commands(text: str) -> list[str]:
    """The commands of the `bash` blocks, whole lines, without comments."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", text, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#\s.*", "", line).strip() for line in lines]


COMMANDS = sorted(
    {
        (name, command)
        for name, text in TEXTS.items()
        for command in bash_commands(text)
        if re.match(r"parrot [a-z]", command) and "..." not in command
    }
)


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_command_can_be_parsed(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Words in capitals stand for the reader's files.
    words = [
        re.sub(r"^CONFIG$", "configs/train/chat_cpu.yaml", word)
        for word in shlex.split(command)[1:]
    ]
    monkeypatch.chdir(tmp_path)
    module, config = parse(words)
    assert isinstance(config, module.Config) or type(config).__module__ == module.__name__


@pytest.mark.parametrize("name", NAMES)
def test_what_a_page_names_exists(name: str) -> None:
    text = TEXTS[name]
    words = {verb.words for verb in VERBS}
    for first, second in re.findall(r"`parrot ([a-z]+)(?: ([a-z][a-z-]+))?", text):
        assert first in words or f"{first} {second}" in words, f"parrot {first} {second}"
    for path in re.findall(r"\b((?:configs|scripts|docs|tests|parrot_jax)/[\w./-]*\w\.\w+)", text):
        assert (ROOT / path).exists(), path
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\bmake ([a-z]+-?[a-z]+)\b`", text)) <= {*targets}


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = [page for part in navigation for pages in part.values() for page in pages]
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted({*listed} - {"launch.md", "contributing.md"}) == sorted(pages)
    assert len(listed) == len({*listed})


def messages_of_the_code() -> str:
    """All strings of the package; placeholders of f-strings become `{}`."""
    found = [(ROOT / "Makefile").read_text()]
    for path in (ROOT / "parrot_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_the_messages_that_troubleshooting_quotes_are_those_of_the_code() -> None:
    # A message is in the first cell of a row; `...` stands for a placeholder.
    rows = re.findall(r"^\| `([^`|]+)`", TEXTS["docs/troubleshooting.md"], re.M)
    assert len(rows) > 30
    code = messages_of_the_code()
    for row in rows:
        for part in row.split("..."):
            assert part.strip() in code, part
