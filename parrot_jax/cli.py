"""The `parrot` program: finds the command, imports its module only, prints errors as one line.

Nothing slow is imported here, so `parrot --help` answers at once.
"""

import difflib
import errno
import importlib
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

from parrot_jax.core.errors import ParrotError, UserError, is_disk_full
from parrot_jax.version import __version__


class Verb(NamedTuple):
    """One command: its words, its module in `commands/`, its argument and a one-line summary."""

    words: str
    module: str
    argument: str
    summary: str


VERBS = (
    Verb("quickstart", "quickstart", "", "the whole loop on synthetic data, in ten minutes"),
    Verb("configs copy", "configs_copy", "NAME [PATH]", "copy a shipped config for editing"),
    Verb("configs", "configs", "", "list the shipped configs: purpose, hardware, command"),
    Verb("data clean", "data_clean", "CONFIG", "clean, de-duplicate and decontaminate dialogues"),
    Verb("data show", "data_show", "CONFIG", "show a dialogue as the model sees it, or a FILE's"),
    Verb("data prepare", "data_prepare", "CONFIG", "tokenise and pack dialogues into cached rows"),
    Verb("stats", "stats", "PATH...", "dataset statistics: lengths, turns, diversity, repeats"),
    Verb("train", "train", "CONFIG", "train an asker or an answerer; run again to resume"),
    Verb("runs", "runs", "[FOLDER]", "list runs, also running ones: state, step, last loss"),
    Verb("report", "report", "RUN...", "a page of training runs or collections: curves, counts"),
    Verb("view", "view", "PATH...", "look at dialogues in a browser: search, filter, follow"),
    Verb("plan", "plan", "CONFIG", "check memory and time of a run on hardware you don't have"),
    Verb("generate", "generate", "RUN", "write the next question (ask) or answer (chat)"),
    Verb("serve", "serve", "RUN", "serve a run over an OpenAI-compatible API"),
    Verb("collect plan", "collect_plan", "CONFIG", "forecast calls, tokens, cost and hours"),
    Verb("collect status", "collect_status", "RUN", "progress and cost, also during the run"),
    Verb("collect export", "collect_export", "RUN", "write a collection as a dataset with a card"),
    Verb("collect", "collect", "CONFIG", "collect dialogues between an asker and an answerer"),
    Verb("convert hf-to-flax", "convert_hf_to_flax", "SRC OUT", "import Hugging Face weights"),
    Verb("convert flax-to-hf", "convert_flax_to_hf", "RUN OUT", "export to transformers, vLLM"),
    Verb("convert verify", "convert_verify", "HF_DIR RUN", "compare tensors by hash, and logits"),
    Verb("push", "push", "FOLDER REPO", "upload a model or a dataset to the Hugging Face hub"),
    Verb("evaluate answer", "evaluate_answer", "CONFIG", "let a model answer a benchmark"),
    Verb("evaluate judge", "evaluate_judge", "CONFIG", "let a judge grade or compare answers"),
    Verb("evaluate report", "evaluate_report", "RUN...", "scores by turn, with intervals"),
    Verb("evaluate compare", "evaluate_compare", "A B", "is B better, and at which turns?"),
    Verb("evaluate rescore", "evaluate_rescore", "FILE...", "parse FastChat judgments again"),
    Verb("evaluate winrate", "evaluate_winrate", "FILE...", "AlpacaEval's win rate, with interval"),
    Verb("evaluate asker", "evaluate_asker", "ASKER...", "does it ask as people do? a report card"),
    Verb("evaluate build", "evaluate_build", "CONFIG", "continue a benchmark with more questions"),
    Verb("evaluate review", "evaluate_review", "FILE", "accept, edit or reject built questions"),
    Verb("evaluate download", "evaluate_download", "[NAME]", "download a public benchmark"),
    Verb("annotate report", "annotate_report", "FILE", "what annotators said, and their agreement"),
    Verb("annotate", "annotate", "FILE...", "let people judge questions or answers in a browser"),
    Verb("negatives select", "negatives_select", "CONFIG", "select questions that need context"),
    Verb("negatives build", "negatives_build", "CONFIG", "write wrong answers and pairs for CaPO"),
    Verb("world write", "world_write", "", "write the synthetic world: dialogues, facts, an exam"),
    Verb("world serve", "world_serve", "WORLD", "serve the synthetic world's answerer"),
)


_INTERRUPTED = 128 + signal.SIGINT
_MEND_BY_USER = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit status: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted, 141 the
      reader of the output has exited (`| head`).
    """
    _open_streams()
    if arguments is None:
        sys.unraisablehook = _report_unraisable
    try:
        status = _main(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        if status == _INTERRUPTED and arguments is None:
            # Everything is closed by now. jax crashes in Python's shutdown after an interrupt
            # during a compilation.
            sys.stderr.flush()
            os._exit(status)
    except BrokenPipeError:
        if not _readers_are_gone():
            raise
        return 128 + signal.SIGPIPE
    except OSError as error:
        if is_disk_full(error):
            _discard(sys.stdout)
            said = f"no room left on the disk: {error}; free some space and run it again."
        elif error.filename is not None and error.errno in _MEND_BY_USER:
            said = f"cannot use {error.filename}: {error.strerror}; check path and permissions."
        else:
            raise
        print(f"parrot: {said}", file=sys.stderr)
        return 2
    return status


def _open_streams() -> None:
    """Points a stream that the shell closed (`>&-`) at /dev/null."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # until the end


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"parrot {__version__}")
        return 0
    threading.excepthook = _report_thread
    try:
        command, config = parse(arguments)
        command.run(config)
    except ParrotError as error:
        from parrot_jax.core.logs import visible

        print(f"parrot: {visible(str(error))}{_belongs_to(error)}", file=sys.stderr)
        return error.exit_code
    except SystemExit as end:  # after --help or a wrong option
        if isinstance(end.__context__, BrokenPipeError):  # rich has discarded the stream already
            return 128 + signal.SIGPIPE
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        print("parrot: interrupted; run the same command again to continue.", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _belongs_to(error: ParrotError) -> str:
    """Names the command that a config is for, if the error is that it was given to another one."""
    from parrot_jax.core.config import ConfigError

    if not isinstance(error, ConfigError) or not error.has_foreign_keys:
        return ""
    from parrot_jax.commands.configs import commands_for

    commands = commands_for(error.values)
    return f". It is a config for {commands}." if commands else ""


def _readers_are_gone() -> bool:
    """Whether stdout or stderr has lost its reader; such a stream is discarded from now on."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        try:
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            is_closed = any(event & select.POLLERR for _, event in poll.poll(0))
        except (AttributeError, OSError, ValueError):  # closed, or replaced by a test
            continue
        if is_closed:
            _discard(stream)  # or Python would complain at exit
            gone = True
    return gone


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def parse(arguments: Sequence[str]) -> tuple[Any, Any]:
    """Returns the module of the requested command, and its config.

    Raises:
      UserError: There is no such command, or its config is wrong.
      SystemExit: 0 after --help, 2 after a wrong option.
    """
    from parrot_jax.core.arguments import parse_arguments, parse_options

    verb, rest = _find_verb(arguments)
    command = importlib.import_module(f"parrot_jax.commands.{verb.module}")
    parse = parse_arguments if verb.argument == "CONFIG" else parse_options
    parse = getattr(command, "parse", parse)
    prog = f"parrot {verb.words}"
    return command, parse(command.Config, rest, prog=prog, description=command.__doc__ or "")


def _report_thread(problem: threading.ExceptHookArgs) -> None:
    """Prints a thread's exception, unless the disk is full: the main thread reports that."""
    if problem.exc_value is None or not is_disk_full(problem.exc_value):
        threading.__excepthook__(problem)


def _report_unraisable(problem: Any) -> None:
    """Repeats a Ctrl-C that arrived inside a callback, such as jax's garbage-collection hook.

    Python drops exceptions raised there, so the program would keep running.
    """
    if problem.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(problem)


def _find_verb(arguments: Sequence[str]) -> tuple[Verb, Sequence[str]]:
    for verb in VERBS:
        words = verb.words.split()
        if list(arguments[: len(words)]) == words:
            _check_second_word(verb, arguments[len(words) :])
            return verb, arguments[len(words) :]
    groups = {verb.words.split()[0] for verb in VERBS if " " in verb.words}
    if arguments[0] in groups and {"-h", "--help"} & set(arguments[1:]):
        print(_help(arguments[0]))
        raise SystemExit(0)
    typed = " ".join([word for word in arguments if not word.startswith("-")][:2])
    first = [verb.words for verb in VERBS]
    near = difflib.get_close_matches(typed, first, n=1) or difflib.get_close_matches(
        arguments[0], first, n=1
    )
    hint = f"did you mean `parrot {near[0]}`?" if near else "`parrot --help` lists the commands."
    raise UserError(f"there is no command `{typed or arguments[0]}`; {hint}")


def _check_second_word(verb: Verb, rest: Sequence[str]) -> None:
    """Tells `parrot collect statsu RUN` from `parrot collect CONFIG`."""
    longer = [other.words for other in VERBS if other.words.startswith(f"{verb.words} ")]
    if longer and rest and not rest[0].startswith("-") and not os.path.exists(rest[0]):
        near = difflib.get_close_matches(f"{verb.words} {rest[0]}", longer, n=1, cutoff=0.8)
        if near:
            raise UserError(
                f"there is no command `{verb.words} {rest[0]}`; did you mean `parrot {near[0]}`?"
            )


def _help(group: str = "") -> str:
    verbs = [verb for verb in VERBS if verb.words.startswith(group)]
    usages = [f"parrot {verb.words} {verb.argument}" for verb in verbs]
    width = max(map(len, usages))
    lines = [
        f"  {usage:{width}}  {verb.summary}" for usage, verb in zip(usages, verbs, strict=True)
    ]
    return "\n".join(
        [
            "parrot: train user simulators and multi-turn chat models, and collect dialogues",
            "",
            "usage: parrot COMMAND CONFIG [--overrides]",
            "",
            *lines,
            "",
            "CONFIG is a YAML file: one that `parrot configs` lists, or yours. Override any key:",
            "  parrot train configs/train/ask_wildchat_cpu.yaml --optim.lr 1e-3 --seed 1",
            "`parrot COMMAND --help` explains every key; its output is itself a config.",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
