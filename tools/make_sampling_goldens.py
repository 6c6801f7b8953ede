#!/usr/bin/env python3
"""Writes tests/golden/sampling/cases.json: what transformers' logits processors make of some rows.

    python3 tools/make_sampling_goldens.py --out tests/golden/sampling

Needs torch and transformers 5; takes seconds on a CPU. The file holds

    logits   rows of float32 logits by name
    cases    name of the row, parameters in our spelling, prompt (ids that were seen), `scores` (the
             logits after the repetition penalty, where there is one), and of the ids that all cuts
             leave: `ids` and `probabilities`

The processors run in the order of engine/schedule/sampling_parameters.h, in float32 and in float64; a case
where both do not leave the same ids would test rounding, so that is an error. Rows with ties are
not cut by top_p, whose choice among equals transformers leaves to torch.sort. Frequency and
presence penalties and logit_bias are OpenAI's and have no processor.
"""

import argparse
import json
import pathlib
import sys

import torch
from transformers.generation import logits_process as lp

VOCAB = 96
PROMPT = [3, 5, 5, 17, 40, 41, 95]

SINGLE = [
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 10},
    {"top_p": 0.2},
    {"top_p": 0.85},
    {"top_p": 0.99},
    {"typical_p": 0.2},
    {"typical_p": 0.8},
    {"typical_p": 0.98},
    {"min_p": 0.02},
    {"min_p": 0.4},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
]
TOGETHER = [
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
    {"temperature": 1.4, "top_p": 0.9, "typical_p": 0.7},
    {"top_k": 30, "typical_p": 0.9, "min_p": 0.05},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "typical_p": 0.9, "min_p": 0.03},
    {"repetition_penalty": 1.5, "temperature": 1.2, "top_k": 15},
    {"repetition_penalty": 1.2, "top_p": 0.7, "min_p": 0.1},
]


def rows():
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(VOCAB, generator=generator) * 2.5
    peaked = torch.randn(VOCAB, generator=generator)
    peaked[11] = 9.0
    return {
        "normal": normal,
        "peaked": peaked,
        "nearly_flat": torch.randn(VOCAB, generator=generator) * 0.05 + 2.0,
        "softcapped": torch.tanh(torch.randn(VOCAB, generator=generator)) * 30.0,
        "ties": torch.round(torch.randn(VOCAB, generator=generator) * 2.0),
    }


def process(row, parameters):
    """(scores after the penalty, scores after all)"""
    ids = torch.tensor([PROMPT])
    scores = row.unsqueeze(0).clone()
    if "repetition_penalty" in parameters:
        scores = lp.RepetitionPenaltyLogitsProcessor(parameters["repetition_penalty"])(ids, scores)
    penalized = scores.clone()
    if "temperature" in parameters:
        scores = lp.TemperatureLogitsWarper(parameters["temperature"])(ids, scores)
    if "top_k" in parameters:
        scores = lp.TopKLogitsWarper(parameters["top_k"])(ids, scores)
    if "top_p" in parameters:
        scores = lp.TopPLogitsWarper(parameters["top_p"])(ids, scores)
    if "typical_p" in parameters:
        scores = lp.TypicalLogitsWarper(parameters["typical_p"])(ids, scores)
    if "min_p" in parameters:
        scores = lp.MinPLogitsWarper(parameters["min_p"])(ids, scores)
    return penalized[0], scores[0]


def make_case(name, row, parameters):
    _, exact = process(row.double(), parameters)
    penalized, scores = process(row, parameters)
    kept = torch.isfinite(scores)
    if not torch.equal(kept, torch.isfinite(exact)):
        sys.exit(f"{name} with {parameters}: float32 and float64 leave different ids")
    probabilities = torch.softmax(exact, -1)[kept]
    case = {"row": name, "parameters": parameters}
    if "repetition_penalty" in parameters:
        case["prompt"] = PROMPT
        case["scores"] = penalized.tolist()
    case["ids"] = torch.nonzero(kept).flatten().tolist()
    case["probabilities"] = [float(f"{p:.9g}") for p in probabilities.tolist()]
    return case


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    logits = rows()
    cases = [
        make_case(name, row, parameters)
        for name, row in logits.items()
        for parameters in SINGLE + TOGETHER
        if not (name == "ties" and "top_p" in parameters)
    ]
    out.mkdir(parents=True, exist_ok=True)
    body = {"logits": {name: row.tolist() for name, row in logits.items()}, "cases": cases}
    (out / "cases.json").write_text(json.dumps(body) + "\n")


if __name__ == "__main__":
    main()
