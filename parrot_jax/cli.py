"""The `parrot` program: finds the verb, loads only that verb's module, turns errors into one line.

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
    Verb("configs copy", "configs_copy", "NAME [PATH]", "write a shipped config, to change it"),
    Verb("configs", "configs", "", "list the shipped configs: purpose, hardware, command"),
    Verb("data clean", "data_clean", "CONFIG", "clean, de-duplicate and decontaminate dialogues"),
    Verb(
        "data show", "data_show", "CONFIG", "a dialogue as it is trained on, or of a FILE as read"
    ),
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
    Verb("push", "push", "FOLDER REPO", "send a model or a dataset to the Hugging Face hub"),
    Verb("world write", "world_write", "", "write the little world: dialogues with ground truth"),
    Verb("world serve", "world_serve", "WORLD", "serve the little world's answerer"),
)


_INTERRUPTED = 128 + signal.SIGINT
_MEND_BY_USER = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
      The exit status: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted, 141 whoever
      read the output has gone (`| head`).
    """
    _open_streams()
    if arguments is None:
        sys.unraisablehook = _report_unraisable
    try:
        status = _main(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        if status == _INTERRUPTED and arguments is None:
            # All that is to be closed has been. jax crashes where Python clears it away after an
            # interrupt that came while it compiled.
            sys.stderr.flush()
            os._exit(status)
    except BrokenPipeError:
        if not _readers_are_gone():
            raise
        return 128 + signal.SIGPIPE
    except OSError as error:
        if is_disk_full(error):
            _discard(sys.stdout)
            said = f"no room left for what was being written: {error}."
        elif error.filename is not None and error.errno in _MEND_BY_USER:
            said = f"cannot use {error.filename}: {error.strerror}; check the path and your rights."
        else:
            raise
        print(f"parrot: {said}", file=sys.stderr)
        return 2
    return status


def _open_streams() -> None:
    """Gives a stream that the shell closed (`>&-`) a place that takes everything."""
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
    except SystemExit as end:  # after a help, after a wrong option
        if isinstance(end.__context__, BrokenPipeError):  # rich has discarded the stream already
            return 128 + signal.SIGPIPE
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        print("parrot: interrupted; run the same command again to continue.", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _belongs_to(error: ParrotError) -> str:
    """Which command the config is for that an error speaks of, where it is for another."""
    from parrot_jax.core.config import ConfigError

    if not isinstance(error, ConfigError) or not error.has_foreign_keys:
        return ""
    from parrot_jax.commands.configs import commands_for

    commands = commands_for(error.values)
    return f". It is a config for {commands}." if commands else ""


def _readers_are_gone() -> bool:
    """Whether standard output or error has no reader; such a stream is discarded from now on."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        try:
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            is_closed = any(event & select.POLLERR for _, event in poll.poll(0))
        except (AttributeError, OSError, ValueError):  # none, or one of a test
            continue
        if is_closed:
            _discard(stream)  # or Python would complain at exit
            gone = True
    return gone


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def parse(arguments: Sequence[str]) -> tuple[Any, Any]:
    """The module of the verb that is asked for, and its config.

    Raises:
      UserError: There is no such verb, or its config is wrong.
      SystemExit: 0 after a help, 2 after a wrong option.
    """
    from parrot_jax.core.arguments import parse_arguments, parse_options

    verb, rest = _find_verb(arguments)
    command = importlib.import_module(f"parrot_jax.commands.{verb.module}")
    parse = parse_arguments if verb.argument == "CONFIG" else parse_options
    parse = getattr(command, "parse", parse)
    prog = f"parrot {verb.words}"
    return command, parse(command.Config, rest, prog=prog, description=command.__doc__ or "")


def _report_thread(problem: threading.ExceptHookArgs) -> None:
    """Prints what ended a thread, but for a full disk: the main thread is told of that as well."""
    if problem.exc_value is None or not is_disk_full(problem.exc_value):
        threading.__excepthook__(problem)


def _report_unraisable(problem: Any) -> None:
    """Sends a Ctrl-C again that came inside a callback, such as jax's of the garbage collector.

    Python drops what is raised there, and the program would go on.
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
    hint = f"did you mean `parrot {near[0]}`?" if near else "`parrot --help` lists the verbs."
    raise UserError(f"there is no verb `{typed or arguments[0]}`; {hint}")


def _check_second_word(verb: Verb, rest: Sequence[str]) -> None:
    """Tells `parrot collect statsu RUN` from `parrot collect CONFIG`."""
    longer = [other.words for other in VERBS if other.words.startswith(f"{verb.words} ")]
    if longer and rest and not rest[0].startswith("-") and not os.path.exists(rest[0]):
        near = difflib.get_close_matches(f"{verb.words} {rest[0]}", longer, n=1, cutoff=0.8)
        if near:
            raise UserError(
                f"there is no verb `{verb.words} {rest[0]}`; did you mean `parrot {near[0]}`?"
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
            "parrot: models that ask as people do, and chat models that last many turns",
            "",
            "usage: parrot VERB CONFIG [--overrides]",
            "",
            *lines,
            "",
            "CONFIG is a YAML file: one of `parrot configs`, or yours. Any key can be overridden:",
            "  parrot train configs/train/ask_wildchat_cpu.yaml --optim.lr 1e-3 --seed 1",
            "`parrot VERB --help` is a config with every key explained; save it to have your own.",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
