"""Chat formats as tables: what stands before and behind each text. No code for each format.

`{bos}` and `{eos}` are the tokenizer's own tokens. Every text is stripped, and special tokens in
texts are broken up (`</s>` becomes `< /s>`), so that no text can fake a boundary.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from parrot_jax.dialogue.types import Role


class Part(NamedTuple):
    """What stands around the text of one role."""

    header: str = ""
    """Before the text; a prompt ends with the next speaker's header."""
    lead: str = ""
    """Between the header and the text. It belongs to the text, since tokens of words begin with
    their space."""
    end: str = ""
    """Behind the text: its terminator, which carries loss like the text."""
    tail: str = ""
    """Behind the terminator, without loss."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A chat format."""

    begin: str = ""
    """Before everything else."""
    system: Part
    """The system text, if there is one."""
    user: Part
    assistant: Part
    system_opens: bool = False
    """Whether header, text and end of `system` take the place of the first user header; its tail is
    then the lead of the first question."""
    leads_empty: bool = True
    """Whether `lead` stands before an empty text, too."""
    tokens: tuple[str, ...] = ()
    """Special tokens that a tokenizer must have for this format."""
    marks: tuple[str, ...] = ()
    """Boundaries that are ordinary text; they are broken up in texts, too."""

    def part(self, role: Role | Literal["system"]) -> Part:
        """What stands around the text of a role."""
        return {"system": self.system, "user": self.user, "assistant": self.assistant}[role]


def _parrot(role: str) -> Part:
    return Part(f"{role.upper()}:", " ", "{eos}")


def _llama3(role: str) -> Part:
    return Part(f"<|start_header_id|>{role}<|end_header_id|>\n\n", "", "<|eot_id|>")


def _chatml(role: str) -> Part:
    return Part(f"<|im_start|>{role}\n", "", "<|im_end|>", "\n")


FORMATS: dict[str, Format] = {
    # Vicuna's headers with a terminator behind every turn, for any tokenizer:
    # <s>SYSTEM: be brief</s>USER: hi</s>ASSISTANT: hello</s>
    "parrot": Format(
        begin="{bos}",
        system=_parrot("system"),
        user=_parrot("user"),
        assistant=_parrot("assistant"),
        leads_empty=False,
    ),
    # Llama 3, 3.1, 3.2 and 3.3.
    "llama3": Format(
        begin="{bos}",
        system=_llama3("system"),
        user=_llama3("user"),
        assistant=_llama3("assistant"),
        tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    # Qwen, SmolLM 2, Yi. No BOS: SmolLM 2 names <|im_start|> as its own.
    "chatml": Format(
        system=_chatml("system"),
        user=_chatml("user"),
        assistant=_chatml("assistant"),
        tokens=("<|im_start|>", "<|im_end|>"),
    ),
    # Mistral 0.3 and later, with the system text before the first question; Mistral's own template
    # puts it before the last one, so that it would move with every turn.
    "mistral": Format(
        begin="{bos}",
        system=Part("[INST] ", "", "\n\n"),
        user=Part("[INST]", " ", "", "[/INST]"),
        assistant=Part("", " ", "{eos}"),
        system_opens=True,
        tokens=("[INST]", "[/INST]"),
    ),
    # Mistral 0.1 and 0.2, where the marks are ordinary text.
    "mistral_v1": Format(
        begin="{bos}",
        system=Part(" [INST] ", "", "\n\n"),
        user=Part(" [INST]", " ", "", " [/INST]"),
        assistant=Part("", " ", "{eos}"),
        system_opens=True,
        marks=("[INST]", "[/INST]"),
    ),
    # arXiv:2307.09288, appendix A.3.3; a BOS opens every round.
    "llama2": Format(
        system=Part("{bos}[INST] <<SYS>>\n", "", "\n<</SYS>>\n\n"),
        user=Part("{bos}[INST]", " ", "", " [/INST]"),
        assistant=Part("", " ", " {eos}"),
        system_opens=True,
        marks=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    ),
    # FastChat's vicuna_v1.1, of Vicuna 1.1 to 1.5.
    "vicuna": Format(
        begin="{bos}",
        system=Part("", "", " USER:", " "),
        user=Part("USER:", " "),
        assistant=Part(" ASSISTANT:", " ", "{eos}"),
        system_opens=True,
    ),
}
"""By the name in `data.template`; add a format here to use your own."""
