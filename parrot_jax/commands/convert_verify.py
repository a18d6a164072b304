"""Compare a Hugging Face folder with a run: all tensors by hash; optionally logits on a text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from parrot_jax.train.run_folder import RunFolder
    from parrot_jax.weights.hf_folder import HfFolder


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """What to compare."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder with config.json and safetensors, or a repository (org/name) of the hub."""

    run: Annotated[str, tyro.conf.Positional]
    """A run folder, or a folder made by `convert hf-to-flax`."""

    text: str | None = None
    """Also compare the logits on this text, in float32: transformers on the folder, parrot_jax on
    the run. Needs the torch extra, a tokenizer in the run, and memory for both models."""

    step: int | None = None
    """Which checkpoint. Null = the newest."""


Config = VerifyConfig

MAX_LOGIT_DIFFERENCE = 1e-3
"""Tolerance: float32 sums in another order differ by less, for logits of ordinary size."""


def run(config: VerifyConfig) -> None:
    """Prints the comparison; fails if anything differs."""
    from parrot_jax.core.errors import RunError
    from parrot_jax.core.logs import console
    from parrot_jax.train.run_folder import RunFolder
    from parrot_jax.weights.hf_folder import HfFolder
    from parrot_jax.weights.hub import local_folder
    from parrot_jax.weights.verify import verify

    source, folder = HfFolder(local_folder(config.source)), RunFolder(config.run)
    source.check_files()
    found = verify(source, folder, step=config.step)
    console.print(found.summary())
    same_tokenizer = _compare_tokenizers(source, folder)
    difference = 0.0
    if config.text is not None:
        difference, same_best = _compare_logits(source, folder, config.text, config.step)
        console.print(
            f"logits differ by at most {difference:.2e}; the most likely next token is the same at "
            f"{same_best:.1%} of the positions"
        )
    if found.different:
        raise RunError(f"{len(found.different):,} tensors of {config.run} differ.")
    if not same_tokenizer:
        raise RunError(f"the tokenizers of {config.source} and {config.run} differ.")
    # With rounded weights, logits differ too, so the difference is only printed.
    if difference > MAX_LOGIT_DIFFERENCE and not found.rounded:
        raise RunError(
            f"the logits differ by {difference:.2e}; at most {MAX_LOGIT_DIFFERENCE:g} is allowed."
        )


def _compare_tokenizers(source: "HfFolder", folder: "RunFolder") -> bool:
    """Returns False if the tokenizers differ; True, with a note, if they cannot be compared."""
    from parrot_jax.core.errors import UserError
    from parrot_jax.core.logs import console
    from parrot_jax.data.tokenizers import load_tokenizer

    try:
        theirs = load_tokenizer(source.path, num_rows=source.config.vocab_size)
    except UserError as error:
        console.print(f"the tokenizers are not compared: {error}")
        return True
    if not folder.tokenizer.exists():
        console.print(f"the tokenizers are not compared: {folder.path} has no tokenizer")
        return True
    same = theirs.fingerprint == folder.load_tokenizer().fingerprint
    console.print("the tokenizers are the same" if same else "the tokenizers differ")
    return same


def _compare_logits(
    source: "HfFolder", folder: "RunFolder", text: str, step: int | None
) -> tuple[float, float]:
    """Returns the largest logit difference, and the share of positions with the same argmax."""
    import jax.numpy as jnp
    import numpy as np

    from parrot_jax.core.errors import UserError
    from parrot_jax.model.decoder import hidden_states, unembedding
    from parrot_jax.weights.model_folder import load_params

    try:
        import torch  # pyright: ignore[reportMissingImports] - an extra
        from transformers import AutoModelForCausalLM
    except ImportError:
        raise UserError(
            "--text needs torch; install the extra: pip install 'parrot-jax[torch]'."
        ) from None
    tokenizer = folder.load_tokenizer()
    ids = [*tokenizer.start_ids, *tokenizer.encode([text.strip()])[0]]
    params, model = load_params(folder, step=step), folder.load_model()
    hidden = hidden_states(
        model, params, jnp.asarray([ids]), None, jnp.arange(len(ids))[None],
        compute_dtype=jnp.float32, remat="none",
    )  # fmt: skip
    ours = np.asarray(hidden[0] @ unembedding(params))
    reference = AutoModelForCausalLM.from_pretrained(
        source.path, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        theirs = reference(torch.tensor([ids])).logits[0].numpy()
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    return float(np.abs(ours - theirs).max()), float(same.mean())
