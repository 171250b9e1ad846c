"""Public question sets on the Hugging Face hub: names, splits, columns and licences in one table.

Every set is plain data (parquet or JSON lines), because `datasets` no longer runs loading scripts.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import NamedTuple

from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.sources import Fields, questions
from pubswap_jax.settings import nearest


@dataclasses.dataclass(frozen=True)
class HubSet:
    """A question set on the hub: its name, splits, licence, and how to read its columns."""

    name: str  # repository on the hub
    configs: tuple[str, ...]
    splits: Mapping[str, str]  # 'train' or 'test' -> name of the split on the hub
    fields: Fields
    licence: str
    topic: str = ""  # topic of every question, for sets without a topic column


MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
MCQ = ("opa", "opb", "opc", "opd")
BOTH = {"train": "train", "test": "test"}

# MedMCQA's test split has no answers, so its validation split serves as the test split.
HUB = {
    "math": HubSet(
        "EleutherAI/hendrycks_math",
        MATH_SUBJECTS,
        BOTH,
        Fields("problem", "solution", id="", topic="type", level="level", final="box"),
        "MIT",
    ),
    "math500": HubSet(
        "HuggingFaceH4/MATH-500",
        ("default",),
        {"test": "test"},
        Fields("problem", "answer", id="unique_id", topic="subject", level="level"),
        "MIT (openai/prm800k)",
    ),
    "gsm8k": HubSet(
        "openai/gsm8k",
        ("main",),
        BOTH,
        Fields("question", "answer", id="", topic="", level="", final="hashes"),
        "MIT",
        topic="grade-school arithmetic",
    ),
    "deepmath": HubSet(
        "zwhe99/DeepMath-103K",
        ("default",),
        {"train": "train"},
        Fields("question", "final_answer", id="", topic="topic", level="difficulty"),
        "MIT",
    ),
    "medqa": HubSet(
        "GBaker/MedQA-USMLE-4-options",
        ("default",),
        BOTH,
        Fields("question", "answer_idx", id="", topic="meta_info", level="", options="options"),
        "CC BY 4.0",
    ),
    "medmcqa": HubSet(
        "openlifescienceai/medmcqa",
        ("default",),
        {"train": "train", "test": "validation"},
        Fields("question", "cop", id="id", topic="subject_name", level="", options=MCQ, final="index"),
        "Apache-2.0",
    ),
    "aime24": HubSet(
        "HuggingFaceH4/aime_2024",
        ("default",),
        {"test": "train"},
        Fields("problem", "answer", id="id", topic="", level=""),
        "problems (c) MAA, no licence stated",
        topic="competition",
    ),
    "amc23": HubSet(
        "math-ai/amc23",
        ("default",),
        {"test": "test"},
        Fields("question", "answer", id="id", topic="", level=""),
        "problems (c) MAA, no licence stated",
        topic="competition",
    ),
}


PREFIX = "hf:"
SPEC = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:/([\w.-]+))?@([\w./-]+)(?::([\w.-]+))?")  # owner/name[/config]@revision[:split]


class Spec(NamedTuple):
    """A data set on the hub that is not in the table of known sets, as 'hf:owner/name@revision' names it."""

    name: str
    config: str | None
    revision: str
    split: str  # empty: the one that is asked for

    @classmethod
    def of(cls, text: str) -> "Spec":
        found = SPEC.fullmatch(text)
        if not found:
            raise ValueError(
                f"{text}: write hf:OWNER/NAME@REVISION, or hf:OWNER/NAME/CONFIG@REVISION:SPLIT; the revision is a commit, a "
                f"branch or a tag, such as main"
            )
        name, config, revision, split = found.groups()
        return cls(name, config, revision, split or "")


def is_name(text: str) -> bool:
    """Whether a text names question sets, as data.name does; False for a file's path."""
    return text.startswith("reasoning_gym:") or all(part in HUB or part.startswith(PREFIX) for part in text.split("+"))


def splits(name: str) -> Mapping[str, str]:
    """The splits that a question set has (train, validation, test), as the table of sets knows them without asking the hub."""
    return HUB[name].splits if name in HUB else {}


def hub(short: str, split: str = "train", fields: Fields | None = None) -> list[Problem]:
    """Questions of a set in `HUB`, or of 'hf:owner/name@revision' with the columns that `fields` name, from hub or cache."""
    if short.startswith(PREFIX):
        spec = Spec.of(short)
        rows = _rows(spec.name, spec.config, spec.split or split, spec.revision, f"/{spec.config}" if spec.config else "")
        asked = questions(rows, fields or Fields(), spec.name)
        return [dataclasses.replace(problem, id=f"{spec.name}/{problem.id}") for problem in asked]
    if short not in HUB:
        raise ValueError(f"data.name is {short!r}{nearest(short, HUB, write=repr)}")
    entry = HUB[short]
    if split not in entry.splits:
        raise ValueError(f"{entry.name} has no {split} split; it has {', '.join(entry.splits)}")
    several = len(entry.configs) > 1
    rows = itertools.chain.from_iterable(
        _rows(entry.name, config, entry.splits[split], place=f"/{config}" if several else "") for config in entry.configs
    )
    problems = questions(rows, entry.fields, entry.name)
    # The prefix keeps ids of different sets distinct. It is also the key by which `natural` partitions a mixture of sets.
    return [
        dataclasses.replace(problem, id=f"{short}/{problem.id}", topic=problem.topic or entry.topic) for problem in problems
    ]


def _rows(name: str, config: str | None, split: str, revision: str | None = None, place: str = ""):
    import datasets

    try:
        table = datasets.load_dataset(name, config, split=split, revision=revision)
    except (ConnectionError, FileNotFoundError, ValueError, OSError) as error:
        said = f": {str(error).strip().splitlines()[0][:200]}" if revision and str(error).strip() else ""
        raise FileNotFoundError(
            f"{name} ({config or 'default'}, {split}) is neither in the cache nor to be had from the hub "
            f"({type(error).__name__}{said}): where there is a network, run `hf download --repo-type dataset {name} "
            f"--local-dir {name}` and bring that folder into the working directory, or set data.path to a file of your own"
        ) from None
    for line, row in enumerate(table):
        yield f"{name}:{split}{place}:{line}", f"{split}{place}/{line}", row
