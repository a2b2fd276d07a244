"""A training loop written by hand for one model: what the workload allows when no library stands between.

Its own Llama forward, LoRA fused into each product, batches of like length, no mask, logits at labels alone. It knows
the benchmark's model and nothing else; the yardstick of `train_throughput.py`, never part of the product.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.workload import SHAPE
from toolkit.data.examples.batches import batch_by_length

HEADS, GROUPS, LAYERS = SHAPE["num_attention_heads"], SHAPE["num_key_value_heads"], SHAPE["num_hidden_layers"]
WIDTH = SHAPE["hidden_size"] // HEADS
NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
         "mlp.up_proj", "mlp.down_proj")  # fmt: skip


class _Product(torch.autograd.Function):
    """x W' + scale (x A') B', keeping x and x A' alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        narrow = x @ down.to(x.dtype).T
        ctx.save_for_backward(x, narrow, weight, down, up)
        ctx.scale = scale
        return (x @ weight.T).addmm_(narrow, up.to(x.dtype).T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, narrow, weight, down, up = ctx.saved_tensors
        (g,) = gradients
        back = (g @ up.to(g.dtype)) * ctx.scale
        into = (g @ weight).addmm_(back, down.to(g.dtype)) if ctx.needs_input_grad[0] else None
        return into, None, (back.T @ x).to(down.dtype), (g.T @ narrow * ctx.scale).to(up.dtype), None


class HandLlama:
    """The benchmark's Llama with rank-`rank` pairs on every linear map."""

    def __init__(self, folder: Path, dtype: torch.dtype, rank: int, alpha: int) -> None:
        self.weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
        self.dtype, self.scale = dtype, alpha / rank
        torch.manual_seed(42)
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in range(LAYERS):
            for name in NAMES:
                out, into = self.weights[f"model.layers.{layer}.{name}.weight"].shape
                down = torch.empty(rank, into).uniform_(-1, 1) * into**-0.5
                self.pairs[f"{layer}.{name}"] = (down.requires_grad_(), torch.zeros(out, rank, requires_grad=True))

    @property
    def trained(self) -> list[Tensor]:
        return [tensor for pair in self.pairs.values() for tensor in pair]

    def _linear(self, layer: int, name: str, x: Tensor) -> Tensor:
        weight = self.weights[f"model.layers.{layer}.{name}.weight"]
        return _Product.apply(x, weight, *self.pairs[f"{layer}.{name}"], self.scale)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(self.dtype) * self.weights[name]

    def loss(self, ids: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """(sum over labelled tokens, their number) of a batch, padded on the right."""
        rows, tokens = ids.shape
        x = F.embedding(ids, self.weights["model.embed_tokens.weight"]).view(rows * tokens, -1)
        angles = torch.outer(torch.arange(tokens), 10_000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH))
        turn = torch.cat([angles, angles], -1)
        cos, sin = turn.cos().to(self.dtype), turn.sin().to(self.dtype)
        for layer in range(LAYERS):
            x = self._block(layer, x, rows, tokens, cos, sin)
        scored = labels[:, 1:] != -100
        picked = self._norm("model.norm.weight", x).view(rows, tokens, -1)[:, :-1][scored]
        logits = (picked @ self.weights["lm_head.weight"].T).float()
        return F.cross_entropy(logits, labels[:, 1:][scored], reduction="sum"), int(scored.sum())

    def _block(self, layer: int, x: Tensor, rows: int, tokens: int, cos: Tensor, sin: Tensor) -> Tensor:
        seen = self._norm(f"model.layers.{layer}.input_layernorm.weight", x)

        def heads(name: str, count: int) -> Tensor:
            return self._linear(layer, f"self_attn.{name}", seen).view(rows, tokens, count, WIDTH).transpose(1, 2)

        def rotated(y: Tensor) -> Tensor:
            first, second = y.chunk(2, -1)
            return y * cos + torch.cat([-second, first], -1) * sin

        query, key, value = rotated(heads("q_proj", HEADS)), rotated(heads("k_proj", GROUPS)), heads("v_proj", GROUPS)
        if self.dtype == torch.bfloat16:
            bias = torch.full((tokens, tokens), torch.finfo(self.dtype).min, dtype=self.dtype).triu_(1)
            each = HEADS // GROUPS * tokens
            scores = (query.reshape(rows, GROUPS, each, WIDTH) * WIDTH**-0.5) @ key.transpose(2, 3)
            weights = torch.softmax(scores.view(rows, HEADS, tokens, tokens) + bias, -1)
            mixed = (weights.view(rows, GROUPS, each, tokens) @ value).view(rows, HEADS, tokens, WIDTH)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        mixed = mixed.transpose(1, 2).reshape(rows * tokens, -1)
        x = x + self._linear(layer, "self_attn.o_proj", mixed)
        seen = self._norm(f"model.layers.{layer}.post_attention_layernorm.weight", x)
        inner = F.silu(self._linear(layer, "mlp.gate_proj", seen)) * self._linear(layer, "mlp.up_proj", seen)
        return x + self._linear(layer, "mlp.down_proj", inner)


def pad(rows: list[dict[str, list[int]]]) -> tuple[Tensor, Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows]
    labels = [row["labels"] + [-100] * (longest - len(row["labels"])) for row in rows]
    return torch.tensor(ids), torch.tensor(labels)


def train(model: HandLlama, rows: list[dict[str, list[int]]], batch: int, rate: float, epochs: int) -> float:
    """AdamW with a linear schedule and clipping, as the libraries do; returns the last step's loss."""
    optimizer = torch.optim.AdamW(model.trained, lr=rate, weight_decay=0.0)
    lengths = np.array([len(row["input_ids"]) for row in rows])
    steps = [b for epoch in range(epochs) for b in batch_by_length(lengths, batch, seed=42, epoch=epoch)]
    last = 0.0
    for number, chosen in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - number / len(steps))
        total, count = model.loss(*pad([rows[i] for i in chosen]))
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        last = float(total) / count
    return last
