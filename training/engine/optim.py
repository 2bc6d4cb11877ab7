"""AdamW over a method's parameter groups, the learning-rate schedule as a function of the step, gradient clipping."""

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from training.config import OptimConfig
from training.methods.base import Method


def build_optimizer(method: Method, config: OptimConfig) -> AdamW:
    """Build the optimiser; empty groups are left out.

    Args:
        method: Its ``param_groups`` decide decay and learning-rate scale.
        config: The recipe's settings.

    Returns:
        AdamW whose groups carry ``lr_scale``, ``group``, ``clip`` and ``names``.
    """
    groups = [
        {
            "params": [parameter for _, parameter in members],
            "names": [name for name, _ in members],
            "weight_decay": group.weight_decay,
            "lr_scale": group.lr_scale,
            "group": group.name,
            "clip": group.clip,
            **group.options,
        }
        for group in method.param_groups(config.weight_decay)
        for sharded in (False, True)  # one fused kernel takes plain or sharded tensors, not both
        if (members := [(name, p) for name, p in group.params if isinstance(p, DTensor) == sharded])
    ]
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up from ``lr_start`` to ``lr``, then along the schedule to ``lr_end`` at the end of the budget.

    Args:
        config: The three rates, the warm-up and the schedule.
        step: The coming optimiser step, from 0.
        steps: All steps.
    """
    if step < config.warmup_steps:
        return config.lr_start + (config.lr - config.lr_start) * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    left = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr_end + (config.lr - config.lr_end) * left


def set_learning_rate(optimizer: AdamW, lr: float, method: Method, step: int, steps: int) -> None:
    """Give every group the rate times its own scale, or what the method makes of it.

    Args:
        optimizer: From :func:`build_optimizer`.
        lr: By the schedule.
        method: Its ``group_lr`` has the last word.
        step: The coming step.
        steps: All steps.
    """
    for group in optimizer.param_groups:
        group["lr"] = method.group_lr(group["group"], lr * group["lr_scale"], step, steps)


def clip_gradients(module: nn.Module, optimizer: AdamW, largest: float | None) -> Tensor:
    """Scale gradients down together where their global norm exceeds a bound.

    Args:
        module: Its parameters' gradients, sharded or not.
        optimizer: From :func:`build_optimizer`; groups without ``clip`` are left out.
        largest: The bound; None only measures.

    Returns:
        The norm before, a scalar; the same on every rank.
    """
    spared = {id(p) for group in optimizer.param_groups if not group["clip"] for p in group["params"]}
    # in the module's order, because the sum of another order differs in its last digit
    gradients = [p.grad for p in module.parameters() if p.grad is not None and id(p) not in spared]
    norms = [
        nn.utils.get_total_norm(part)
        for sharded in (False, True)
        if (part := [g for g in gradients if isinstance(g, DTensor) == sharded])
    ]
    norm = torch.stack([n.full_tensor() if isinstance(n, DTensor) else n for n in norms]).norm()
    if largest is not None:
        factor = (largest / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            local.mul_(factor.to(local.device))
    return norm


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Count scalar parameters.

    Args:
        module: What to count.
        trainable: Only those that get gradients.
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
