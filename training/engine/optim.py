"""AdamW over a method's parameter groups, and the learning-rate schedule as a function of the step."""

import math

from torch import nn
from torch.optim import AdamW

from training.config import OptimConfig
from training.methods.base import Method


def build_optimizer(method: Method, config: OptimConfig) -> AdamW:
    """Build the optimiser; empty groups are left out.

    Args:
        method: Its ``param_groups`` decide decay and learning-rate scale.
        config: The recipe's settings.

    Returns:
        AdamW whose groups carry ``lr_scale`` and ``names``.
    """
    groups = [
        {
            "params": [parameter for _, parameter in group.params],
            "names": [name for name, _ in group.params],
            "weight_decay": group.weight_decay,
            "lr_scale": group.lr_scale,
        }
        for group in method.param_groups(config.weight_decay)
        if group.params
    ]
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up from ``lr_start`` to ``lr``, then cosine to ``lr_end`` at the end of the budget.

    Args:
        config: The three rates and the warm-up.
        step: The coming optimiser step, from 0.
        steps: All steps.
    """
    if step < config.warmup_steps:
        return config.lr_start + (config.lr - config.lr_start) * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.lr_end + (config.lr - config.lr_end) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: AdamW, lr: float) -> None:
    """Give every group the rate times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Count scalar parameters.

    Args:
        module: What to count.
        trainable: Only those that get gradients.
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
