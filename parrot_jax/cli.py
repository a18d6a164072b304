"""The `parrot` program: finds the verb, loads only that verb's module, turns errors into one line.

Nothing slow is imported here, so `parrot --help` answers at once.
"""

import importlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple

from parrot_jax import __version__
from parrot_jax.core.errors import ParrotError, UserError, is_disk_full


class Verb(NamedTuple):
    """One verb: its words, the module in `commands/` behind it, its argument, what it does."""

    words: str
    module: str
    argument: str
    summary: str


VERBS = (
    Verb("quickstart", "quickstart", "", "the whole loop on a little world, in ten minutes"),
    Verb("data clean", "data_clean", "CONFIG", "clean, de-duplicate and decontaminate dialogues"),
    Verb("data show", "data_show", "CONFIG", "print a dialogue: live text green, dead text grey"),
    Verb("data prepare", "data_prepare", "CONFIG", "tokenise and pack into cached rows; count"),
    Verb("stats", "stats", "PATH...", "Table 1 and Figure 3 for any files, and how people ask"),
    Verb("train", "train", "CONFIG", "train an asker or an answerer; continues where it stopped"),
    Verb("plan", "plan", "CONFIG", "does a run fit hardware that is not here, and how long is it?"),
    Verb("generate", "generate", "RUN", "write the next question (ask) or answer (chat)"),
    Verb("serve", "serve", "RUN", "serve a run over an OpenAI-compatible API"),
    Verb("collect plan", "collect_plan", "CONFIG", "what a collection will take, and cost"),
    Verb("collect status", "collect_status", "RUN", "how a collection stands, also while it runs"),
    Verb("collect export", "collect_export", "RUN", "a collection as a dataset with its card"),
    Verb("collect", "collect", "CONFIG", "let an asker and an answerer talk; journal every word"),
    Verb(
        "convert hf-to-flax", "convert_hf_to_flax", "SRC OUT", "Hugging Face weights to train from"
    ),
    Verb("convert flax-to-hf", "convert_flax_to_hf", "RUN OUT", "a run for transformers and vLLM"),
    Verb("convert verify", "convert_verify", "HF_DIR RUN", "compare tensors by hash, and logits"),
    Verb("push", "push", "FOLDER REPO", "send an export to the Hugging Face hub"),
    Verb("world write", "world_write", "", "write the little world: dialogues with ground truth"),
    Verb("world serve", "world_serve", "WORLD", "serve the little world's answerer"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
      The exit status: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"parrot {__version__}")
        return 0
    threading.excepthook = _report_thread
    try:
        verb, rest = _find_verb(arguments)
        _run(verb, rest)
    except ParrotError as error:
        print(f"parrot: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("parrot: interrupted; run the same command again to continue.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone: nothing is wrong, but Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(verb: Verb, arguments: Sequence[str]) -> None:
    from parrot_jax.core.config import parse_arguments, parse_options

    command = importlib.import_module(f"parrot_jax.commands.{verb.module}")
    parse = parse_arguments if verb.argument == "CONFIG" else parse_options
    prog = f"parrot {verb.words}"
    command.run(parse(command.Config, arguments, prog=prog, description=command.__doc__ or ""))


def _report_thread(problem: threading.ExceptHookArgs) -> None:
    """Prints what ended a thread, but for a full disk: the main thread is told of that as well."""
    if problem.exc_value is None or not is_disk_full(problem.exc_value):
        threading.__excepthook__(problem)


def _find_verb(arguments: Sequence[str]) -> tuple[Verb, Sequence[str]]:
    for verb in VERBS:
        words = verb.words.split()
        if list(arguments[: len(words)]) == words:
            return verb, arguments[len(words) :]
    groups = {verb.words.split()[0] for verb in VERBS if " " in verb.words}
    if arguments[0] in groups and {"-h", "--help"} & set(arguments[1:]):
        print(_help(arguments[0]))
        raise SystemExit(0)
    import difflib

    typed = " ".join([word for word in arguments if not word.startswith("-")][:2])
    first = [verb.words for verb in VERBS]
    near = difflib.get_close_matches(typed, first, n=1) or difflib.get_close_matches(
        arguments[0], first, n=1
    )
    hint = f"did you mean `parrot {near[0]}`?" if near else "`parrot --help` lists the verbs."
    raise UserError(f"there is no verb `{typed or arguments[0]}`; {hint}")


def _help(group: str = "") -> str:
    verbs = [verb for verb in VERBS if verb.words.startswith(group)]
    usages = [f"parrot {verb.words} {verb.argument}" for verb in verbs]
    width = max(map(len, usages))
    lines = [
        f"  {usage:{width}}  {verb.summary}" for usage, verb in zip(usages, verbs, strict=True)
    ]
    return "\n".join(
        [
            "parrot: models that ask as people do, and chat models that last many turns",
            "",
            "usage: parrot VERB CONFIG [--overrides]",
            "",
            *lines,
            "",
            "CONFIG is a YAML file (see configs/); any key in it can be overridden, for example",
            "  parrot train configs/train/ask_wildchat_cpu.yaml --optim.lr 1e-3 --seed 1",
            "`parrot VERB --help` explains the keys, `parrot VERB CONFIG --help` shows the values.",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
