"""The peers as contenders: transformers' `Trainer` and litgpt, on the model and the rows that `bench/trainer.py` wrote.

PEERS/bin/python -m bench.peers FOLDER transformers|litgpt [--compiled] [--device cuda]

FOLDER holds the model as `LlamaForCausalLM.from_pretrained` takes it, `rows.npy` in the order of training, and
`peers.json`. Runs in the peers' environment (bench/peers.txt), so it imports nothing of ours but the turns.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.turns import Turns


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("peer", choices=["transformers", "litgpt"])
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: in bfloat16, by autocast")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = json.loads((arguments.folder / "peers.json").read_text())
    rows = np.load(arguments.folder / "rows.npy")
    peer = with_transformers if arguments.peer == "transformers" else with_litgpt
    peer(arguments.folder, rows, settings, arguments.compiled, arguments.device == "cuda")


def memory() -> float:
    """Most bytes of the GPU's memory that tensors took so far; 0 without one."""
    return float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0.0


def with_transformers(folder: Path, rows: Any, settings: dict[str, Any], compiled: bool, on_gpu: bool) -> None:
    """Its own loop and its defaults (fused AdamW); what differs between runs of it is only what is asked for here."""
    from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    losses = []

    class Watched(Trainer):
        def training_step(self, *arguments: Any) -> torch.Tensor:
            losses.append(super().training_step(*arguments))
            return losses[-1]

    class AtTheStep(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            control.should_training_stop = not turns.wait()

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            turns.done(float(torch.stack(losses).sum()), memory=memory())
            losses.clear()
            control.should_training_stop = not turns.wait()

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    options = TrainingArguments(
        output_dir=str(folder / "transformers"),
        use_cpu=not on_gpu,
        bf16=on_gpu,
        max_steps=len(rows) // settings["global_batch"],
        per_device_train_batch_size=settings["micro_batch"],
        gradient_accumulation_steps=settings["global_batch"] // settings["micro_batch"],
        train_sampling_strategy="sequential",
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=settings["beta1"],
        adam_beta2=settings["beta2"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["clip_norm"],
        torch_compile=compiled,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    # The rows are an input and its last target, so that all contenders have equally many targets.
    examples = [{"input_ids": row[:-1], "labels": row[1:], "shift_labels": row[1:]} for row in torch.from_numpy(rows)]
    trainer = Watched(model, options, train_dataset=examples, callbacks=[AtTheStep()])
    turns = Turns(parameters=sum(p.numel() for p in model.parameters()), attention=model.config._attn_implementation)
    trainer.train()


def with_litgpt(folder: Path, rows: Any, settings: dict[str, Any], compiled: bool, on_gpu: bool) -> None:
    """The loop of `litgpt pretrain` (its data loaders apart); AdamW fused, which it asks for only on GPUs."""
    import lightning
    from litgpt import GPT, Config
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.utils import chunked_cross_entropy
    from safetensors.torch import load_file

    hub = json.loads((folder / "config.json").read_text())
    config = Config(
        block_size=hub["max_position_embeddings"],
        vocab_size=hub["vocab_size"],
        padded_vocab_size=hub["vocab_size"],
        n_layer=hub["num_hidden_layers"],
        n_head=hub["num_attention_heads"],
        n_query_groups=hub["num_key_value_heads"],
        n_embd=hub["hidden_size"],
        intermediate_size=hub["intermediate_size"],
        norm_eps=hub["rms_norm_eps"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    precision: Any = "bf16-mixed" if on_gpu else "32-true"
    fabric = lightning.Fabric(accelerator="cuda" if on_gpu else "cpu", devices=1, precision=precision)
    model = GPT(config)
    weights: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(folder / "model.safetensors"))
    model.load_state_dict(weights)
    if hub["tie_word_embeddings"]:
        model.transformer.wte.weight = model.lm_head.weight
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings["learning_rate"],
        betas=(settings["beta1"], settings["beta2"]),
        weight_decay=settings["weight_decay"],
        fused=True,
    )
    model = fabric.setup(torch.compile(model) if compiled else model)
    optimizer = fabric.setup_optimizers(optimizer)
    batches = torch.from_numpy(rows).split(settings["micro_batch"])
    micro_batches = settings["global_batch"] // settings["micro_batch"]

    def step(number: int) -> float:
        losses = []
        for micro in range(micro_batches):
            rows_BT = fabric.to_device(batches[number * micro_batches + micro])
            with fabric.no_backward_sync(model, enabled=micro + 1 < micro_batches):
                loss = chunked_cross_entropy(model(rows_BT[:, :-1].contiguous()), rows_BT[:, 1:].contiguous())
                fabric.backward(loss / micro_batches)
            losses.append(loss.detach())
        fabric.clip_gradients(model, optimizer, max_norm=settings["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        return float(torch.stack(losses).mean())

    numbers = iter(range(len(rows)))
    turns = Turns(parameters=parameters)
    while turns.wait():
        turns.done(step(next(numbers)), memory=memory())


if __name__ == "__main__":
    main()
