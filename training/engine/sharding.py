"""FSDP2 for large towers: each transformer block's parameters, gradients and moments are spread over the ranks."""

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from assets.errors import ConfigError, message
from training.engine.distributed import World


def _block_lists(module: nn.Module) -> list[tuple[nn.Module, nn.ModuleList]]:
    """Find the stacks of transformer blocks of open_clip's and timm's towers with the module that runs each."""
    return [
        (parent, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if name in ("resblocks", "blocks", "layer", "layers") and isinstance(child, nn.ModuleList) and len(child)
        # a frozen tower has no gradients and moments, and may run its blocks in its own way
        if any(parameter.requires_grad for parameter in child.parameters())
    ]


def shard_blocks(method: nn.Module, world: World) -> None:
    """Spread the blocks of every tower over the ranks, in place.

    What is outside of blocks (embeddings, projections, the logit scale) stays whole on every rank: it is small, and
    scalars cannot be sharded. Its gradients are averaged by ``accumulate.average_gradients``.

    Args:
        method: On its device already.
        world: The ranks.

    Raises:
        ConfigError: There is nothing to shard.
    """
    stacks = _block_lists(method)
    if not stacks:
        raise ConfigError(
            message(
                "machine.shard_parameters needs towers with transformer blocks",
                "none",
                fix="set it to false, or use kind: vit",
            )
        )
    mesh = init_device_mesh(world.device.type, (world.size,))
    for parent, blocks in stacks:
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(parent, mesh=mesh)  # lets a block's parameters be fetched while the one before computes
