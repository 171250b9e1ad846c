"""The host's side of training.zero_variance=resample: whether a step asks other questions, and which ones it learned from."""

from collections.abc import Callable

import jax
import numpy as np

from pubswap_jax.devices import hosts
from pubswap_jax.types import Batch, StepRecord, Verdict

Again = Callable[[Verdict, int], Batch | None]


def make_again(draw: Callable[[int], Batch], most: int, who: np.ndarray) -> Again:
    """Returns a batch's `again`, which gives other questions while some client's group has equal rewards, at most `most` times.

    Clients are those of bool[C] `who`. `draw`: number of the draw -> the batch. Called with shapes, `again` draws once, so
    that the programs are known.
    """

    def again(verdicts: Verdict, done: int) -> Batch | None:
        if isinstance(verdicts.reward, jax.ShapeDtypeStruct):
            return None if done else draw(0)
        if done == most:
            return None
        reward = hosts.fetch(verdicts.reward)
        flat = reward.max(-1) == reward.min(-1)
        return draw(done) if flat[who].any() else None

    return again


def settled(batch: Batch, record: StepRecord) -> tuple[Batch, np.ndarray | None]:
    """After a step with resampling: the batch with the answers of the questions learned from, and each client's share replaced.

    The share is None where no question can be replaced. `prompts` and `ids` stay those of the first questions.
    """
    if batch.again is None:
        return batch, None
    answers, replaced = batch.answers, np.zeros(len(batch.answers))
    for others, source in record.drawn:
        source = hosts.fetch(source)
        both = [[*kept, *new] for kept, new in zip(answers, others, strict=True)]
        answers = [[row[i] for i in places] for row, places in zip(both, source, strict=True)]
        replaced += (source >= source.shape[1]).mean(1)
    return batch.replace(answers=answers), replaced
