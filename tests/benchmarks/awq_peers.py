"""AutoAWQ's algorithm by its formulas (quantize/quantizer.py of AutoAWQ 0.2.9), in torch and by running the modules.

Its library needs transformers of 2024; what it computes fits on a page. Weights come back as they multiply the unscaled
inputs, so that they can take the place of the model's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

GRID, CLIP_STEPS, CLIP_TOKENS = 20, 10, 512


def pseudo_quantize(weight: Tensor, group_size: int, zero_point: bool = True) -> Tensor:
    """Round a weight (out, in) to 4 bits of its groups and back, with scales in float16."""
    groups = weight.reshape(-1, group_size)
    if zero_point:
        largest, least = groups.amax(1, keepdim=True), groups.amin(1, keepdim=True)
        scales = (largest - least).clamp(min=1e-5) / 15
        zeros = (-torch.round(least / scales)).clamp(0, 15)
        read = (torch.clamp(torch.round(groups / scales) + zeros, 0, 15) - zeros) * scales.half().float()
    else:
        scales = groups.abs().amax(1, keepdim=True).clamp(min=1e-5) / 7
        read = torch.clamp(torch.round(groups / scales), -8, 7) * scales.half().float()
    return read.reshape(weight.shape)


def find_scales(
    inputs: Tensor, linears: list[nn.Linear], run: Callable[[], Tensor], group_size: int, duo_scaling: bool = True
) -> Tensor:
    """The scales (in,) by which the output of `run`, with the Linears quantized, is closest to what it was."""
    weight = torch.cat([linear.weight for linear in linears])
    grouped = weight.reshape(-1, group_size).abs()
    w_mean = (grouped / (grouped.amax(1, keepdim=True) + 1e-6)).reshape(weight.shape).mean(0)
    x_mean = inputs.abs().reshape(-1, inputs.shape[-1]).mean(0)
    kept, wanted = [linear.weight.data.clone() for linear in linears], run()
    best, found = float("inf"), torch.ones_like(x_mean)
    for ratio in (step / GRID for step in range(GRID)):
        power = x_mean.pow(ratio)
        scales = (power / (w_mean.pow(1 - ratio) + 1e-4) if duo_scaling else power).clamp(min=1e-4)
        scales = scales / (scales.max() * scales.min()).sqrt()
        for linear, original in zip(linears, kept, strict=True):
            linear.weight.data = pseudo_quantize(original * scales, group_size) / scales
        loss = float((run() - wanted).square().mean())
        for linear, original in zip(linears, kept, strict=True):
            linear.weight.data = original
        if loss < best:
            best, found = loss, scales
    return found


def clipped(weight: Tensor, inputs: Tensor, group_size: int) -> Tensor:
    """`weight` (out, in) with each group clipped to where its part of the outputs changes least."""
    tokens = inputs.reshape(-1, inputs.shape[-1])
    tokens = tokens[:: max(1, len(tokens) // CLIP_TOKENS)]
    x = tokens.reshape(len(tokens), -1, group_size)
    out = []
    for rows in weight.split(64):
        w = rows.reshape(len(rows), -1, group_size)
        largest = w.abs().amax(2, keepdim=True)
        wanted = torch.einsum("tgi,rgi->rtg", x, w)
        best, least = largest.clone(), torch.full_like(largest, 1e9)
        for step in range(CLIP_STEPS):
            limit = largest * (1 - step / GRID)
            tried = pseudo_quantize(w.clamp(-limit, limit).reshape(rows.shape), group_size).reshape(w.shape)
            loss = (torch.einsum("tgi,rgi->rtg", x, tried) - wanted).square().mean(1).unsqueeze(2)
            better = loss < least
            least[better], best[better] = loss[better], limit[better]
        out.append(w.clamp(-best, best).reshape(rows.shape))
    return torch.cat(out)


@torch.inference_mode()
def quantize(model: Any, ids: Tensor, group_size: int = 128) -> dict[str, Tensor]:
    """The weights of a Llama's blocks by their names; blocks are fed by the float blocks before them."""
    found: dict[str, Tensor] = {}
    hidden, calls = _embedded(model, ids)
    for number, layer in enumerate(model.model.layers):
        captured = _inputs(layer, hidden, calls)
        attention, mlp, linears = layer.self_attn, layer.mlp, dict(layer.named_modules())
        groups = [
            (["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], attention),
            (["mlp.gate_proj", "mlp.up_proj"], mlp),
            (["mlp.down_proj"], mlp.down_proj),
        ]
        if attention.v_proj.weight.shape == attention.o_proj.weight.shape:
            groups.append((["self_attn.o_proj"], attention.o_proj))
        scales = {}
        for names, module in groups:
            x = captured[names[0]]
            run = _runner(module, x, calls, attention)
            found_scales = find_scales(x, [linears[name] for name in names], run, group_size)
            scales |= dict.fromkeys(names, found_scales)
        outputs = _run(layer, hidden, calls)
        for name, x in captured.items():
            s = scales.get(name, torch.ones(x.shape[-1]))
            weight = linears[name].weight * s
            if not any(part in name for part in ("q_", "k_")):
                weight = clipped(weight, x / s, group_size)
            found[f"model.layers.{number}.{name}.weight"] = pseudo_quantize(weight, group_size) / s
        hidden = outputs
    return found


def _embedded(model: Any, ids: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """What the first block is fed, (windows, window, hidden), and what else blocks are called with for one window."""
    calls: dict[str, Any] = {}

    def seen(module: Any, args: Any, kwargs: Any) -> None:
        calls.update(kwargs)

    handle = model.model.layers[0].register_forward_pre_hook(seen, with_kwargs=True)
    model(ids[:1], use_cache=False)
    handle.remove()
    calls.pop("hidden_states", None)
    return model.model.embed_tokens(ids), calls


def _run(module: Any, x: Tensor, calls: dict[str, Any]) -> Tensor:
    made = [module(window[None], **calls) for window in x]
    return torch.cat([each[0] if isinstance(each, tuple) else each for each in made])


def _runner(module: Any, x: Tensor, calls: dict[str, Any], attention: Any) -> Callable[[], Tensor]:
    if module is attention:
        return lambda: _run(module, x, calls)
    return lambda: torch.cat([module(window[None]) for window in x])


def _inputs(layer: Any, hidden: Tensor, calls: dict[str, Any]) -> dict[str, Tensor]:
    """The inputs (windows, window, in) of each Linear of the block."""
    seen: dict[str, list[Tensor]] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0]))
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]
    _run(layer, hidden, calls)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}
