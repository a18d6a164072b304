"""Continues prompts with vLLM; run by its own Python, so it uses nothing of this project.

Takes a folder, a JSON file with lists of ids, the number of new ids, and the file to write them to.
"""

import json
import sys


def main(folder: str, prompts: str, max_tokens: str, out: str) -> None:
    from vllm import LLM, SamplingParams  # here, since doctests import this file without it

    with open(prompts, encoding="utf-8") as file:
        ids = json.load(file)
    model = LLM(
        model=folder, skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_num_seqs=4
    )
    sampling = SamplingParams(
        temperature=0.0, max_tokens=int(max_tokens), ignore_eos=True, detokenize=False
    )
    outputs = model.generate([{"prompt_token_ids": each} for each in ids], sampling)
    with open(out, "w", encoding="utf-8") as file:
        json.dump([list(output.outputs[0].token_ids) for output in outputs], file)


if __name__ == "__main__":
    main(*sys.argv[1:])
