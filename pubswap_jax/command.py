"""The command `pubswap`: `pubswap train math` does what `python -m pubswap_jax.main --mode=train --config=math` does.

Usage: pubswap COMMAND [CONFIG | RUN | FILE] [FLAGS]. `pubswap COMMAND --help` describes one command.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from pubswap_jax import _version, settings
from pubswap_jax import main as program


class Command(NamedTuple):
    takes: str  # the word after the command: CONFIG, RUN or FILE
    does: str
    flags: str


FIELD = "--config.FIELD=VALUE    set a field of the config; --help=SECTION lists the fields of a section, such as training"
WORKDIR = "--workdir=FOLDER        folder of the run; by default a dated folder under runs/"
RESUME = "--fork                  resume although the config has changed"
QUESTIONS = "--questions=FILE        ask the questions of this file; by default the run's test questions"
ADAPTER = "--adapter=FOLDER        PEFT adapter to evaluate; by default the adapter of the run's best round"
MERGE = "--merge=DTYPE            merge the average into its base too, as a model folder in float32 or bfloat16"

COMMANDS = {
    "train": Command("CONFIG", "train a config; the same command resumes an interrupted run", f"{WORKDIR}\n{RESUME}\n{FIELD}"),
    "plan": Command("CONFIG", "estimate the memory and the time of a round, without training", FIELD),
    "probe": Command("CONFIG", "say whether a base model has anything to elicit: its answers to some questions", FIELD),
    "data": Command("CONFIG", "read the questions: who asks how many, prompt lengths, what was left out", FIELD),
    "eval": Command(
        "RUN", "evaluate the adapter of a run's best round, or another adapter", f"{ADAPTER}\n{QUESTIONS}\n{FIELD}"
    ),
    "export": Command("RUN", "write a run's adapters as PEFT folders", f"{MERGE}\n{FIELD}"),
    "report": Command("RUN", "write report.html of a run", ""),
    "doctor": Command("RUN", "say in one line each what looks wrong in a run, and which field to change", ""),
    "flexmerge": Command("RUN", "merge the clients' own adapters of a run block by block, at a size of your choice", FIELD),
    "route": Command("RUN", "route test questions to the clients' own adapters of a run", FIELD),
    "verify": Command("FILE", "grade a file of {gold, answer} rows", ""),
}
GIVEN_AS = {"CONFIG": "--config", "RUN": "--workdir"}
EXAMPLES = {
    "CONFIG": "CONFIG: the name of a config of the package, such as math or math:qwen3-1.7b, or the path of a config file",
    "RUN": "RUN: the folder of a run, such as runs/mine",
}
APART = ("--config", "--workdir", "--adapter", "--questions", "--merge")  # flags whose value may follow as a word of its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. A user's mistake is printed in one line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"pubswap_jax {_version.__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        print(f"pubswap: {name}: no such command{settings.nearest(name, COMMANDS)}; see pubswap --help", file=sys.stderr)
        return 2
    if name == "verify":
        from pubswap_jax import verify

        verify.main(rest, prog="pubswap verify")
        return 0
    if {"-h", "--help"} & set(rest):
        print(helped(name))
        return 0
    section = [word for word in rest if word.startswith("--help=")]
    if section:
        return program.main(section)
    try:
        flags = translated(name, rest)
    except ValueError as error:
        print(f"pubswap {name}: {error}", file=sys.stderr)
        return 2
    return program.main(flags)


def overview() -> str:
    """Returns the text of `pubswap --help`: the commands and what each does."""
    lines = [f"  {name:<9} {command.takes:<8} {command.does}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pubswap COMMAND [CONFIG | RUN | FILE] [FLAGS]",
            "",
            *lines,
            "",
            *EXAMPLES.values(),
            "pubswap COMMAND --help describes one command. `pubswap train math` is the one to begin with.",
        ]
    )


def helped(name: str) -> str:
    """The text of `pubswap NAME --help`, for the commands that main.py runs."""
    command = COMMANDS[name]
    lines = [f"usage: pubswap {name} {command.takes} [FLAGS]", "", command.does, "", EXAMPLES[command.takes]]
    return "\n".join(lines + [f"  {line}" for line in command.flags.splitlines()])


def translated(name: str, words: Sequence[str]) -> list[str]:
    """Translates `pubswap NAME WORDS` to flags of main.py: the word that is no flag becomes --config or --workdir."""
    flag, alone, flags = GIVEN_AS[COMMANDS[name].takes], [], []
    rest = iter(words)
    for word in rest:
        if word in APART:
            flags.append(f"{word}={next(rest, '')}")
        elif word.startswith("-"):
            flags.append(word)
        else:
            alone.append(word)
    if any(word.partition("=")[0] == "--mode" for word in flags):
        raise ValueError(f"--mode: the command itself is the mode; write pubswap {' or pubswap '.join(list(COMMANDS)[:4])}")
    given = [word for word in flags if word.startswith(("--config=", "--workdir="))]
    if not alone and not any(word.startswith(f"{flag}=") for word in given) and (flag == "--config" or not given):
        raise ValueError(f"{COMMANDS[name].takes} is missing; {EXAMPLES[COMMANDS[name].takes]}")
    twice = [word for word in given if word.startswith(f"{flag}=")] if alone else []
    if len(alone) > 1 or twice:
        raise ValueError(f"{' '.join(alone + twice)}: one {COMMANDS[name].takes} expected; see pubswap {name} --help")
    return [f"--mode={name}", *(f"{flag}={word}" for word in alone), *flags]


if __name__ == "__main__":
    sys.exit(main())
