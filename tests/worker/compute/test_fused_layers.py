"""Fused layers against peft's and the library's own, attention by example against the kernels, and packed rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.worker


@pytest.fixture(scope="module")
def peft_model(tiny_model: Path) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    return get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))


@pytest.fixture
def model(peft_model: Any) -> Iterator[Any]:
    yield peft_model.train()
    for module in peft_model.modules():
        vars(module).pop("forward", None)
    peft_model.get_base_model().set_attn_implementation("sdpa")


def batch(lengths: tuple[int, ...] = (24, 24, 24)) -> dict[str, Any]:
    import torch

    longest = max(lengths)
    ids = torch.randint(0, 300, (len(lengths), longest), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])
    return {"input_ids": ids, "attention_mask": mask}


def outcome(model: Any, inputs: dict[str, Any], *, bf16: bool = False) -> tuple[Any, dict[str, Any]]:
    """Return the logits at real tokens and all gradients of a loss over them."""
    import torch

    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        logits = model(**inputs, use_cache=False).logits
    mask = inputs["attention_mask"]
    real = (logits[mask.bool()] if mask.dim() == 2 else logits[0]).float()
    torch.logsumexp(real, dim=-1).mean().backward()
    return real.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def off_by(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the distance of all gradients relative to their norm."""
    import torch

    flat, reference = (torch.cat([g.flatten() for g in found.values()]) for found in (one, other))
    return float((flat - reference).norm() / reference.norm())


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-5), (True, 3e-2)])
def test_fused_lora_layers_equal_those_of_peft(model: Any, bf16: bool, tolerance: float) -> None:
    from toolkit.worker.compute.fused_lora import fuse_lora_layers

    logits, gradients = outcome(model, batch(), bf16=bf16)
    assert fuse_lora_layers(model) == 14  # 2 layers x 7 linear maps
    fused_logits, fused_gradients = outcome(model, batch(), bf16=bf16)
    assert set(fused_gradients) == set(gradients)
    assert float((fused_logits - logits).norm() / logits.norm()) < tolerance
    assert off_by(fused_gradients, gradients) < tolerance
    assert all(g.dtype == p.dtype for p in model.parameters() if (g := p.grad) is not None)


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-5), (True, 3e-2)])
def test_fused_norms_and_feed_forwards_equal_those_of_the_library(model: Any, bf16: bool, tolerance: float) -> None:
    from toolkit.worker.compute.fused_layers import fuse_layers
    from toolkit.worker.compute.fused_lora import fuse_lora_layers

    logits, gradients = outcome(model, batch(), bf16=bf16)
    fuse_lora_layers(model)
    assert fuse_layers(model) == 7  # 2 layers x (2 norms and a feed-forward), and the last norm
    fused_logits, fused_gradients = outcome(model, batch(), bf16=bf16)
    assert set(fused_gradients) == set(gradients)
    assert float((fused_logits - logits).norm() / logits.norm()) < tolerance
    assert off_by(fused_gradients, gradients) < tolerance


def test_a_long_row_computed_in_parts_equals_the_whole_row(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.compute import fused_layers
    from toolkit.worker.compute.fused_lora import fuse_lora_layers

    fuse_lora_layers(model)
    fused_layers.fuse_layers(model)
    whole, gradients = outcome(model, batch((23,)))
    monkeypatch.setattr(fused_layers, "TOKENS_PER_PART", 5)
    parts, of_parts = outcome(model, batch((23,)))
    assert float((parts - whole).abs().max()) < 1e-5
    assert off_by(of_parts, gradients) < 1e-5


def test_gradients_of_a_fused_feed_forward_match_finite_differences() -> None:
    import torch

    from toolkit.worker.compute.fused_layers import _FusedFeedForward, _FusedNorm

    def random(*size: int) -> Any:
        return torch.randn(*size, dtype=torch.float64, generator=draw).requires_grad_()

    draw = torch.Generator().manual_seed(3)
    wide, narrow, rank, rows = 6, 5, 2, 4
    parts = []
    for into, out in ((wide, narrow), (wide, narrow), (narrow, wide)):
        parts += [random(out, into).detach(), None, random(rank, into), random(out, rank)]
    x = random(rows, wide)
    learned = [part for part in parts if part is not None and part.requires_grad]

    def feed(x: Any, *given: Any) -> Any:
        rest = iter(given)
        full = [next(rest) if part is not None and part.requires_grad else part for part in parts]
        return _FusedFeedForward.apply(x, [0.5, 0.7, 1.1], *full)

    assert torch.autograd.gradcheck(feed, (x, *learned))
    weight = random(wide).detach()
    assert torch.autograd.gradcheck(lambda x: _FusedNorm.apply(x, weight, 1e-6), (x,), atol=1e-3, rtol=1e-2, eps=1e-2)


def test_a_norm_of_another_kind_is_not_fused(model: Any) -> None:
    import torch

    from toolkit.worker.compute.fused_layers import fuse_layers
    from toolkit.worker.compute.fused_lora import fuse_lora_layers

    fuse_lora_layers(model)
    first = model.get_base_model().model.layers[0]
    kind = type(first.input_layernorm)
    other = type(
        "OtherRMSNorm", (kind,), {"forward": lambda self, x: (1 + self.weight) * x, "__module__": kind.__module__}
    )
    first.input_layernorm.__class__ = other
    first.mlp.act_fn = torch.nn.GELU()
    assert fuse_layers(model) == 5
    first.input_layernorm.__class__, first.mlp.act_fn = kind, torch.nn.SiLU()


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_pytorch_tanh", "relu", "dropout"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_small_feed_forward_of_another_kind_is_not_fused(kind: str, bf16: bool) -> None:
    """Its outputs are small, and so is the difference that another activation makes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    from toolkit.worker.compute.fused_layers import FeedForwardStep, fuse_layers
    from toolkit.worker.compute.fused_lora import fuse_lora_layers

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, hidden_act="silu" if kind == "dropout" else kind,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16 if bf16 else torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear")).eval()
    feed = base.model.layers[0].mlp
    if kind == "dropout":
        own = type(feed)
        forward = {"forward": lambda self, x: torch.nn.functional.dropout(own.forward(self, x), 0.1, self.training)}
        feed.__class__ = type("OtherMLP", (own,), {**forward, "__module__": own.__module__})
    fuse_lora_layers(model)
    fuse_layers(model)
    assert isinstance(vars(feed).get("forward"), FeedForwardStep) == (kind == "silu")
    assert not feed.training


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-5), (True, 2e-2)])
@pytest.mark.parametrize("at_once", [2**22, 700])
def test_fused_head_and_loss_equal_separate_ones(
    bf16: bool, tolerance: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from toolkit.worker.compute import fused_loss

    monkeypatch.setattr(fused_loss, "MAX_LOGITS_AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(2)
    dtype = torch.bfloat16 if bf16 else torch.float32
    weight = torch.randn(300, 32, generator=draw).to(dtype)
    labels = torch.randint(0, 300, (75,), generator=draw)
    one = torch.randn(75, 32, generator=draw).to(dtype)
    one[3] *= 40  # so far towards another token that the label's probability is 0 in fp32
    assert float(torch.softmax((one[3] @ weight.T).float(), dim=0)[labels[3]]) == 0
    one.requires_grad_()
    other = one.detach().clone().requires_grad_()
    fused = fused_loss.head_loss(one, weight, labels)
    plain = torch.nn.functional.cross_entropy((other @ weight.T).float(), labels, reduction="sum")
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-4)
    (fused / 7).backward()
    (plain / 7).backward()
    assert float((one.grad - other.grad).norm() / other.grad.norm()) < tolerance


def test_logits_changed_after_the_head_are_detected(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.compute.fused_loss import has_plain_head

    base = model.get_base_model()
    assert has_plain_head(base)
    assert base.training
    own = type(base).forward

    def capped(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = own(self, *args, **kwargs)
        found.logits = found.logits.tanh()
        return found

    monkeypatch.setattr(type(base), "forward", capped)
    assert not has_plain_head(base)
    monkeypatch.undo()
    base.lm_head.weight.requires_grad_(True)
    assert not has_plain_head(base)
    base.lm_head.weight.requires_grad_(False)


def test_a_fused_model_answers_as_its_base_and_is_saved_unchanged(model: Any, tmp_path: Path) -> None:
    import torch

    from toolkit.worker.compute.fused_lora import fuse_lora_layers

    model.eval()
    inputs = batch()
    with torch.no_grad(), model.disable_adapter():
        base = model(**inputs).logits
    names = list(model.state_dict())
    fuse_lora_layers(model)
    with torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(model(**inputs).logits, base, rtol=0, atol=0)
    assert list(model.state_dict()) == names
    assert model.generate(input_ids=inputs["input_ids"][:1], max_new_tokens=4, do_sample=False).shape[1] == 28


def test_lora_layers_with_extras_are_not_fused(tiny_model: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from toolkit.worker.compute.fused_lora import fuse_lora_layers

    for more in ({"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}):
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        assert fuse_lora_layers(get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **more))) == 0


def test_offloaded_layers_are_not_fused(tiny_model: Path) -> None:
    """A model too large for its device keeps layers in host memory, and a hook loads them for their forward pass."""
    import torch
    from accelerate import cpu_offload
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from toolkit.worker.compute.fused_lora import fuse_lora_layers

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    cpu_offload(base.model.layers[0], execution_device=torch.device("cpu"))
    assert (
        fuse_lora_layers(get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))) == 7
    )  # of the other layer


def test_attention_with_another_shape_or_a_bias_is_correct() -> None:
    """Values narrower than keys, as in DeepSeek's models, and scores with an added bias."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from toolkit.worker.compute.attention import attend_by_example

    class Causal(torch.nn.Module):
        is_causal = True
        num_key_value_groups = 2

    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 7, width, generator=draw).bfloat16() for heads, width in ((4, 16), (2, 16), (2, 8))
    )
    bias = torch.randn(1, 4, 7, 7, generator=draw).bfloat16() * 4
    for more in ({}, {"position_bias": bias}):
        found = attend_by_example(Causal(), query, key, value, None, cu_seq_lens_q=torch.tensor([0, 7]), **more)[0]
        wanted = sdpa_attention_forward(Causal(), query, key, value, None, **more)[0]
        torch.testing.assert_close(found, wanted, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("lengths", [(24, 24, 24), (24, 11, 3)])
def test_attention_by_example_equals_the_kernel_in_bf16(model: Any, lengths: tuple[int, ...]) -> None:
    from toolkit.worker.compute.attention import use_padding_free_attention
    from toolkit.worker.compute.padding_free import remove_padding

    whole, exact = outcome(model, batch(lengths))
    kernel, kernel_gradients = outcome(model, batch(lengths), bf16=True)
    assert use_padding_free_attention(model.get_base_model())
    inputs = batch(lengths)
    row = remove_padding({**inputs, "labels": inputs["input_ids"]})
    del row["labels"]
    alone, gradients = outcome(model, row, bf16=True)
    # as close to the fp32 numbers as the kernel, up to rounding
    assert float((alone - whole).norm()) < 1.5 * float((kernel - whole).norm())
    assert off_by(gradients, exact) < 1.5 * off_by(kernel_gradients, exact) + 1e-3


@pytest.mark.parametrize("even", [1, 16])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("lengths", [(9,), (12, 12, 11, 10), (1, 30, 14, 2, 13, 29), (300, 300, 7)])
def test_grouped_products_equal_the_kernel(lengths: tuple[int, ...], window: int | None, even: int) -> None:
    """Values and gradients for any lengths in any order, in a precision that shows every wrong index."""
    import torch

    from toolkit.worker.compute.attention import _attend_by_kernel, _ExampleAttention, plan_attention

    random = torch.Generator().manual_seed(0)
    heads, key_heads, width = 6, 2, 8

    def states(count: int) -> Any:
        found = torch.randn(1, sum(lengths), count, width, generator=random, dtype=torch.float64)
        return found.transpose(1, 2).requires_grad_()

    query, key, value = states(heads), states(key_heads), states(key_heads)
    own = _ExampleAttention.apply(query, key, value, plan_attention(lengths, heads, key_heads, even), window, 0.3)
    kernel = _attend_by_kernel(query, key, value, lengths, window, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(own, kernel)
    into = torch.randn(own.shape, generator=random, dtype=own.dtype)
    for found, expected in zip(
        torch.autograd.grad(own, (query, key, value), into),
        torch.autograd.grad(kernel, (query, key, value), into),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "qwen2": {}, "qwen3": {"head_dim": 16}, "gemma": {"head_dim": 16}, "mistral": {"sliding_window": 4},
    "gemma3_text": {"head_dim": 16, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {"pad_token_id": 0}, "granite": {}, "olmo2": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_a_model_family_computes_the_same_without_padding(kind: str) -> None:
    """The examples are longer than the windows, so that an ignored window shows."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from toolkit.worker.compute.attention import use_padding_free_attention
    from toolkit.worker.compute.padding_free import remove_padding, respects_borders

    shape = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    torch.manual_seed(0)
    found = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, **FAMILIES[kind])).eval()
    inputs = batch((24, 11, 17))
    with torch.no_grad():
        plain = found(**inputs, use_cache=False).logits[inputs["attention_mask"].bool()]
        assert use_padding_free_attention(found)
        row = remove_padding({**inputs, "labels": inputs["input_ids"]})
        del row["labels"]
        torch.testing.assert_close(found(**row, use_cache=False).logits[0], plain, rtol=1e-4, atol=1e-5)
    assert respects_borders(found)


def test_a_model_that_ignores_borders_is_detected(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    from toolkit.worker.compute import attention
    from toolkit.worker.compute.padding_free import respects_borders

    deaf = AutoModelForCausalLM.from_pretrained(tiny_model)
    own = attention.attend_by_example
    monkeypatch.setattr(
        attention,
        "attend_by_example",
        lambda module, q, k, v, mask, cu_seq_lens_q=None, **rest: own(module, q, k, v, None, **rest),
    )
    assert attention.use_padding_free_attention(deaf)
    assert not respects_borders(deaf)


SMALL = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    # a linear attention that refuses rows of several examples without its own kernels
    "qwen3_5_text": {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
                     "linear_value_head_dim": 16, "head_dim": 16},
    # the model makes a mask of its own, with trained values
    "doge": {},
    # the window is only in the mask and not passed to the attention, which 14 tokens do not show
    "qwen2_moe": {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 2, "num_experts": 4,
                  "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_a_model_family_that_needs_padding_keeps_it(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from toolkit.worker.compute.attention import use_padding_free_attention
    from toolkit.worker.compute.padding_free import respects_borders

    found = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **OTHERS[kind]))
    assert use_padding_free_attention(found)
    assert not respects_borders(found)
    assert found.training


@pytest.mark.parametrize("reads", [True, False])
def test_in_bf16_rounding_is_told_apart_from_a_small_leak(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    """Rounding changes the logits of a deep model by several hundredths; a leak may change them by less."""
    import torch
    from transformers import AutoModelForCausalLM

    from toolkit.worker.compute.attention import use_padding_free_attention
    from toolkit.worker.compute.padding_free import respects_borders

    found = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    assert use_padding_free_attention(found)
    own = type(found).forward

    def rounded(self: Any, input_ids: Any = None, cu_seq_lens_q: Any = None, **rest: Any) -> Any:
        out = own(self, input_ids=input_ids, cu_seq_lens_q=cu_seq_lens_q, **rest)
        if cu_seq_lens_q is not None and reads:  # another shape, so it is rounded differently
            out.logits = out.logits * 1.05
        if cu_seq_lens_q is not None and not reads:  # attends to the token before, even across a border
            out.logits = out.logits + 0.02 * out.logits.roll(1, dims=1)
        return out

    monkeypatch.setattr(type(found), "forward", rounded)
    assert respects_borders(found) is reads


def test_the_output_can_be_changed_in_place(model: Any) -> None:
    """As Gemma 3n and models like BERT do with a projection."""
    import torch

    from toolkit.worker.compute.fused_layers import fuse_layers
    from toolkit.worker.compute.fused_lora import fuse_lora_layers

    layer = model.get_base_model().model.layers[0]
    x = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for fused in (False, True):
        if fused:
            fuse_lora_layers(model)
            fuse_layers(model)
        slopes = []
        for part in (layer.self_attn.q_proj, layer.mlp):
            out = part(x.clone().requires_grad_())
            out *= 3
            out.square().sum().backward()
            slopes += [p.grad.clone() for p in part.parameters() if p.grad is not None]
            model.zero_grad()
        found.append(slopes)
    for fused_slope, slope in zip(found[1], found[0], strict=True):
        assert float((fused_slope - slope).norm()) < 1e-4 * float(slope.norm())


def test_the_last_layer_of_experts_skips_no_tokens() -> None:
    """A shared expert gets [tokens, width], an expert the tokens routed to it: neither may skip any."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from toolkit.worker.compute.fused_layers import fuse_layers
    from toolkit.worker.compute.fused_lora import fuse_lora_layers
    from toolkit.worker.compute.last_layer import compute_only_tokens, find_skippable_steps

    own = {**OTHERS["qwen2_moe"], "use_sliding_window": False}
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2_moe", **SMALL, **own))
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    fuse_lora_layers(model)
    fuse_layers(model)
    steps, ids = find_skippable_steps(base), batch((20,))["input_ids"]
    assert steps
    tokens = torch.tensor([2, 11, 19])
    with torch.no_grad():
        wanted = model(input_ids=ids, use_cache=False).logits[0, tokens]
        with compute_only_tokens(steps, tokens):
            found = model(input_ids=ids, use_cache=False).logits[0, tokens]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1])
def test_in_bf16_a_layer_that_a_later_one_reads_a_little_is_not_the_last(tiny_model: Path, layer: int) -> None:
    """Only some layers have an adapter, and the attention of the next one adds less than bf16 rounds away."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from toolkit.worker.compute.fused_layers import FEED_FORWARD_PROJECTIONS, fuse_layers
    from toolkit.worker.compute.fused_lora import fuse_lora_layers
    from toolkit.worker.compute.last_layer import find_skippable_steps

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", *FEED_FORWARD_PROJECTIONS]
    model = get_peft_model(base, LoraConfig(r=4, target_modules=names, layers_to_transform=[layer]))
    with torch.no_grad():
        base.model.layers[1].self_attn.o_proj.weight.mul_(1 if layer else 0.1)
    fuse_lora_layers(model)
    fuse_layers(model)
    assert len(find_skippable_steps(base)) == (3 if layer else 0)


def test_packed_examples_do_not_attend_to_each_other(model: Any) -> None:
    """Position ids that restart keep the examples apart, in both attentions and both precisions."""
    import torch

    from toolkit.worker.compute.attention import use_padding_free_attention
    from toolkit.worker.compute.fused_lora import fuse_lora_layers

    fuse_lora_layers(model)
    use_padding_free_attention(model.get_base_model())
    ids = batch((20,))["input_ids"]
    positions = torch.tensor([[*range(12), *range(8)]])
    for context, tolerance in ((nullcontext(), 1e-4), (torch.autocast("cpu", torch.bfloat16), 5e-2)):
        with torch.no_grad(), context:
            packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0].float()
            alone = [model(input_ids=part, use_cache=False).logits[0].float() for part in (ids[:, :12], ids[:, 12:])]
            other = ids.clone()
            other[0, :12] = 5
            moved = model(input_ids=other, position_ids=positions, use_cache=False).logits[0, 12:].float()
        torch.testing.assert_close(packed, torch.cat(alone), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(moved, packed[12:], rtol=0, atol=0)


def test_the_last_layer_skips_unscored_tokens(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from toolkit.worker.compute.fused_layers import fuse_layers
    from toolkit.worker.compute.fused_lora import fuse_lora_layers
    from toolkit.worker.compute.last_layer import compute_only_tokens, find_skippable_steps

    base = model.get_base_model()
    assert find_skippable_steps(base) == ()
    fuse_lora_layers(model)
    fuse_layers(model)
    steps = find_skippable_steps(base)
    assert len(steps) == 3
    ids, tokens = batch((20,))["input_ids"], torch.tensor([2, 3, 11, 19])
    gradients = []
    for only in (False, True):
        model.zero_grad()
        with compute_only_tokens(steps, tokens) if only else nullcontext():
            logits = model(input_ids=ids, use_cache=False).logits[0, tokens]
        torch.logsumexp(logits, dim=-1).mean().backward()
        gradients.append((logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}))
    torch.testing.assert_close(gradients[1][0], gradients[0][0], rtol=1e-5, atol=1e-6)
    assert off_by(gradients[1][1], gradients[0][1]) < 1e-5

    own = type(base).forward

    def mixed(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = own(self, *args, **kwargs)
        found.logits = found.logits.cumsum(dim=1)
        return found

    monkeypatch.setattr(type(base), "forward", mixed)
    assert find_skippable_steps(base) == ()  # a model whose logits depend on an earlier token once more
