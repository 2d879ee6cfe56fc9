"""Training speed against transformers' `Trainer` and litgpt: the same model, weights, rows, batches and one thread.

    python -m bench.trainer PEERS/bin/python > trainer.json

PEERS is the environment of bench/peers.txt; without it only our trainer runs. Whole training steps (data, forward,
backward, clip, AdamW) in fp32. A model whose blocks or FFNs are shared is trained by the peers written out, as they
have to: the same function, with more parameters.

Tokens per CPU second, and the share of the machine's matrix-product peak, by `torch.mm` (MKL) and by oneDNN: of
(6 P + 6 L T M) FLOPs a token, where P counts the matrices' parameters at every depth (the embedding once, as the
product of the logits), and causal attention over T positions, M = heads x head width, L times, needs half of 12 L T M.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.ours import open_work, work
from bench.turns import Contender, alternate, middle, ratios
from pipeline.audit.export_model import export, write_export
from pipeline.formats.model import ModelSpec, tensor_shapes, unrolled
from trainer.model import Decoder, dump_tensors, initialize

WARM_UP = 2
PEAKS = ("mkl", "onednn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="?", help="the peers' python; none: only our trainer")
    parser.add_argument("--model", default="sibling", help="sibling (11.6M parameters) or a recipe")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--global-batch", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], help="contenders to leave out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        folder = Path(name)
        steps = WARM_UP + arguments.turns + 1
        recipe, spec = work(folder, arguments.model, arguments.global_batch, arguments.micro_batch, steps)
        write_for_peers(folder, steps)
        if arguments.peers and json.loads((folder / "config.json").read_text())["model_type"] != "llama":
            raise SystemExit(f"{arguments.model}: the peers train Llama's form alone; leave PEERS out")
        commands = {
            "ours": [sys.executable, "-m", "bench.ours", name],
            "ours compiled": [sys.executable, "-m", "bench.ours", name, "--compiled"],
        }
        if arguments.peers:
            for peer in ("transformers", "litgpt"):
                commands[peer] = [arguments.peers, "-m", "bench.peers", name, peer]
                commands[f"{peer} compiled"] = [*commands[peer], "--compiled"]
        commands["products alone"] = [sys.executable, "-m", "bench.floor", name]
        commands |= {library: [sys.executable, "-m", "bench.peak", library] for library in PEAKS}
        contenders = {}
        for key in [key for key in commands if key not in arguments.without]:
            scratch = (
                folder / "scratch" / key.replace(" ", "-")
            )  # a compiler's cache, empty; g++ is called with this path unquoted
            scratch.mkdir(parents=True)
            one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TMPDIR": str(scratch)}
            contenders[key] = Contender(commands[key], one_thread)
        alternate(contenders, arguments.turns, WARM_UP)
    tokens = recipe.data.global_batch * spec.context
    peaks = {library: contenders.pop(library) for library in PEAKS}
    trained = {key: contender for key, contender in contenders.items() if key != "products alone"}
    check_alike(trained, shared=unrolled(spec)[0] != spec)
    reference = contenders.get("transformers", contenders["ours"])
    report = {
        "model": arguments.model,
        "flops_per_token": flops_per_token(spec),
        "tokens_per_step": tokens,
        "peak_gflops_per_cpu_second": {
            library: middle([peak.facts["flops"] / step["cpu"] / 1e9 for step in peak.steps])
            for library, peak in peaks.items()
        },
        "contenders": {
            key: {
                "parameters": contender.facts["parameters"],
                "tokens_per_cpu_second": middle([tokens / step["cpu"] for step in contender.steps]),
                "times_as_fast_as_transformers" if arguments.peers else "times_as_fast_as_ours": middle(
                    ratios(contender, reference)
                ),
                "share_of_peak": {
                    library: middle(
                        [
                            ratio * tokens * flops_per_token(spec) / peak.facts["flops"]
                            for ratio in ratios(contender, peak)
                        ]
                    )
                    for library, peak in peaks.items()
                },
                "first_step_seconds": {
                    "cpu": round(contender.facts["warm_up"][0]["cpu"] + contender.facts["warm_up"][0]["compilers"], 1),
                    "wall": round(contender.facts["warm_up"][0]["wall"], 1),
                },
                "losses": [round(step["loss"], 4) for step in contender.facts["warm_up"] + contender.steps],
            }
            for key, contender in contenders.items()
        },
    }
    json.dump(report, sys.stdout, indent=1)
    print()


def write_for_peers(folder: Path, steps: int) -> None:
    """Our first weights as a hub folder, and our rows in the order in which we read them."""
    recipe, spec, data = open_work(folder)
    model = Decoder(spec)
    initialize(model, recipe.seed)
    write_export(export(spec, dump_tensors(model), eos_token_id=0), folder)
    rows = data.open()
    batches = range(recipe.data.num_micro_batches)
    ordered = [data.micro_batch_rows(rows, step, number) for step in range(steps) for number in batches]
    np.save(folder / "rows.npy", np.concatenate(ordered))
    settings = {
        "global_batch": recipe.data.global_batch,
        "micro_batch": recipe.data.micro_batch,
        "learning_rate": recipe.schedule.peak,
        "beta1": recipe.optimizer.beta1,
        "beta2": recipe.optimizer.beta2,
        "weight_decay": recipe.optimizer.weight_decay,
        "clip_norm": recipe.optimizer.clip_norm,
    }
    (folder / "peers.json").write_text(json.dumps(settings))


def flops_per_token(spec: ModelSpec) -> int:
    twin, _ = unrolled(spec)
    matrices = sum(shape[0] * shape[1] for shape in tensor_shapes(twin).values() if len(shape) == 2)
    looked_up = 0 if spec.tied_embedding else spec.vocabulary * spec.width
    attention = sum(6 * spec.context * layer.query_heads * layer.head_width for layer in twin.layers)
    return 6 * (matrices - looked_up) + attention


def check_alike(contenders: dict[str, Contender], shared: bool) -> None:
    """All must have trained the same thing: equal losses from the same weights, up to rounding, and falling.

    Where blocks are shared, only the first losses are equal: then the peers' copies go their own ways.
    """
    losses = {
        key: [step["loss"] for step in contender.facts["warm_up"] + contender.steps]
        for key, contender in contenders.items()
    }
    for key, found in losses.items():
        pairs = list(zip(found, losses["ours"], strict=True))
        distance = max(abs(a - b) for a, b in (pairs[:1] if shared else pairs))
        if distance > 0.01 or statistics.mean(found[-2:]) >= found[0] - 0.1:
            raise SystemExit(f"{key} trains something else: losses {found}, ours {losses['ours']}")


if __name__ == "__main__":
    main()
