"""The tokens of preference pairs that rows would save by reading each context once.

Ours reads the context of a pair twice, once for each answer. A branched row would have it once,
with both answers after it. Counts the tokens of the windows that `parrot train` makes.

    python scripts/bench/branched_rows.py --pairs PAIRS --tokenizer TOKENIZER [--tokens 2048 4096]
"""

import argparse
import tempfile

import numpy as np

from parrot_jax.data.data_config import DataConfig, MaskConfig
from parrot_jax.data.prepare import prepare
from parrot_jax.dialogue.sources import SourceConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096])
    options = parser.parse_args()
    for row_tokens in options.tokens:
        with tempfile.TemporaryDirectory() as folder:
            config = DataConfig(
                sources=(SourceConfig(kind="preference", path=options.pairs),),
                tokenizer=options.tokenizer,
                mask=MaskConfig(loss_roles=("assistant",)),
                row_tokens=row_tokens,
                cache_dir=folder,
            )
            prepared = prepare(config, "train", pairs=True)
            rows, counts = prepared.rows(), prepared.counts
            contexts, totals = [], []
            for row in (rows[number] for number in range(len(rows))):
                segments, live = row["segment_ids"], row["loss_weights"] > 0
                for chosen in range(1, int(segments.max()) + 1, 2):
                    dead = ((segments == chosen) & ~live).sum()
                    assert dead == ((segments == chosen + 1) & ~live).sum()
                    contexts.append(dead)
                    totals.append(np.isin(segments, (chosen, chosen + 1)).sum())
        saved, read = int(np.sum(contexts)), int(np.sum(totals))
        print(
            f"{row_tokens} tokens: {len(totals)} pairs in {len(rows)} rows, "
            f"{counts['cut_contexts']} contexts cut; {counts['live_tokens'] / read:.1%} of "
            f"{read:,} tokens are live; a pair has {np.mean(totals):.0f} tokens (median "
            f"{np.median(totals):.0f}); contexts once instead of twice would save "
            f"{saved / read:.1%}"
        )


if __name__ == "__main__":
    main()
