"""Distillation into a student that finds its own shape: gates close, then the towers are cut, in one run.

TinyCLIP's automatic inheritance (Wu et al. 2023, arXiv 2309.12314). The student begins as a whole model, most often its
teacher, with gates on width, heads and MLP units of both towers. Until step ``compact_at`` its weights learn by
affinity under sampled gates, while a constraint on the share of prunable parameters, the same for both towers together,
rises to ``sparsity`` and its multipliers climb. Then the gates settle, both towers are cut to what they keep
(:mod:`training.models.compaction`: the cut model computes what the gated one did), and the rest of the run trains the
small dense model with fresh moments, as :mod:`training.methods.distill` does.

A later stage (75, 50, 25 % of the parameters) begins as a model that was cut before. Its gates are on what is left, and
sparsity counts from the whole towers. Published: gates and multipliers at 0.02, gates closing over 1,000 steps, cut at
the end of a warm-up of 3,000 and more. Adam moves a gate by its rate per step at most, so short runs need higher ones.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from assets.errors import ConfigError, message
from training.config import BudgetConfig
from training.data.loader import Batch
from training.engine.gather import GatheredFeatures
from training.losses.sparsity import (
    expected_sparsity,
    kept_parameters,
    prunable_parameters,
    sparsity_loss,
    target_at,
)
from training.methods.distill import Distill, DistillConfig
from training.methods.exchange import ImageInput, ParamGroup, StepOutput
from training.models.compact import build_compact, compact_model
from training.models.export_files import COMPACT
from training.models.gated_tower import gated_image_features, gated_text_features, tower_counts
from training.models.gates import (
    GateNoise,
    GateValues,
    KeptCounts,
    SparsityMultipliers,
    TowerGates,
    TowerSizes,
    compaction_is_due,
    count_kept,
)
from training.models.masking_config import NoMasking

_GATES, _MULTIPLIERS = "gates", "multipliers"
_ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}
_WAY = math.log(100) + 1.6
"""From the clamp of log alpha to a gate that is as likely closed as open."""


class DistillAutoConfig(DistillConfig):
    """How much of the towers goes, and when."""

    kind: Literal["distill_auto"]  # pyright: ignore[reportIncompatibleVariableOverride]
    sparsity: float = Field(gt=0, lt=1)
    """Share of the whole towers' attention and MLP parameters that is gone after the run, earlier stages included."""
    sparsity_warmup_steps: int = Field(ge=0)
    """Steps over which the target rises to ``sparsity``."""
    compact_at: int = Field(ge=1)
    """Step before which the towers are cut; published with the learning rate's warm-up as long."""
    gates_lr: float = Field(default=0.02, gt=0)
    """Of the gates, constant."""
    multipliers_lr: float = Field(default=0.02, gt=0)
    """Of the constraint's multipliers, constant; they climb."""
    two_sided: bool = False
    """Pull gates back that have closed further than asked."""

    @model_validator(mode="after")
    def _reachable(self) -> "DistillAutoConfig":
        if self.sparsity_warmup_steps > self.compact_at:
            raise ValueError(
                f"the target is reached after the towers are cut: sparsity_warmup_steps {self.sparsity_warmup_steps} "
                f"is above compact_at {self.compact_at}"
            )
        if self.compact_at * self.gates_lr < _WAY:
            raise ValueError(
                f"sparsity cannot be reached: in {self.compact_at} steps at gates_lr {self.gates_lr:g} no gate closes; "
                f"raise gates_lr to {_WAY / self.compact_at:.2g} at least, better twice that, or compact_at"
            )
        return self


class DistillAuto(Distill):
    """Learns from a teacher's affinities, and which parts of itself it can do without."""

    Config = DistillAutoConfig
    config: DistillAutoConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    reshapes = True

    def __init__(self, config: DistillAutoConfig, model: nn.Module, images: ImageInput) -> None:
        super().__init__(config, model, images)
        # no defaults of the class, which would hide the modules of the same names
        self.image_gates: TowerGates | None = None
        self.text_gates: TowerGates | None = None
        self.multipliers: SparsityMultipliers | None = None

    def prepare(self, budget: BudgetConfig) -> None:
        """Put gates on both towers.

        Args:
            budget: The recipe's.

        Raises:
            ConfigError: The towers cannot have gates or have lost as much already, images are masked, or the run ends
                before they are cut.
        """
        if budget.steps <= self.config.compact_at:
            what = "recipe.method: the run ends before the towers are cut; compact_at"
            raise ConfigError(message(what, self.config.compact_at, f"fewer than the {budget.steps} steps"))
        if not isinstance(self.images.masking, NoMasking):
            fix = 'leave "masking" out, or distil with a fixed rule (distill_affinity)'
            raise ConfigError(message("distill_auto runs its image tower under gates, which see whole images", fix=fix))
        kept = tower_counts(self.model.visual), tower_counts(self.model)
        sizes = whole_sizes(self.model_config)
        self.first_target = _share_gone(sizes, kept)
        if self.config.sparsity <= self.first_target:
            what = "recipe.method.sparsity: the model that it starts as has lost as much already"
            raise ConfigError(message(what, self.config.sparsity, f"above {self.first_target:.3f}"))
        self.image_gates, self.text_gates = (TowerGates(*tower) for tower in zip(sizes, kept, strict=True))
        self.multipliers = SparsityMultipliers()
        self._noise = self._draw(0)

    def _draw(self, seed: int) -> tuple[GateNoise, GateNoise]:
        assert self.image_gates is not None and self.text_gates is not None
        image, text = self.image_gates, self.text_gates
        return image.draw_noise(seed, 0, 0, 0), text.draw_noise(seed, 0, 0, 1)

    def before_step(self, step: int, steps: int) -> None:
        """Draw the gates' noise, one for the whole batch of a rank."""
        super().before_step(step, steps)
        if self.image_gates is not None:
            # the engine has seeded the generator by seed, step and rank
            self._noise = self._draw(torch.initial_seed() % 2**32)

    def _gates(self) -> tuple[GateValues, GateValues]:
        """Sample the gates in training; settle them in evaluation."""
        assert self.image_gates is not None and self.text_gates is not None
        if not self.training:
            return self.image_gates.settled(), self.text_gates.settled()
        image, text = self._noise
        return self.image_gates.sample(image), self.text_gates.sample(text)

    def _both_sides(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run both towers, under gates until they are cut."""
        if self.image_gates is None:
            return super()._both_sides(batch)
        image_gates, text_gates = self._gates()
        image_features = gated_image_features(self.model.visual, self._pixels(batch, "image", 0), image_gates)
        return image_features, gated_text_features(self.model, batch["text"], text_gates)

    def held_out_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed with the model that would come of cutting the towers now."""
        return super().held_out_features(batch) if self.image_gates is None else self._both_sides(batch)

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """As :meth:`Distill.losses`, with the constraint until the towers are cut."""
        output = super().losses(features, step)
        if self.image_gates is None or self.text_gates is None or self.multipliers is None:
            return output
        towers = (self.image_gates, self.text_gates)
        sparsity = expected_sparsity([t.sizes for t in towers], [t.open_probabilities() for t in towers])
        config = self.config
        target = target_at(step, self.first_target, config.sparsity, config.sparsity_warmup_steps)
        loss = sparsity_loss(sparsity, target, self.multipliers.values, config.two_sided)
        logs = {"sparsity": sparsity.detach(), "sparsity_target": torch.full_like(sparsity.detach(), target)}
        return StepOutput({**output.losses, "sparsity_loss": loss}, {**output.logs, **logs})

    def param_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Add the gates and their multipliers, which have Adam's own settings and are not clipped."""
        groups = super().param_groups(weight_decay)
        own = {_GATES: ("image_gates.", "text_gates."), _MULTIPLIERS: ("multipliers.",)}
        every = tuple(prefix for prefixes in own.values() for prefix in prefixes)
        kept = [group._replace(params=[p for p in group.params if not p[0].startswith(every)]) for group in groups]
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        further = [
            ParamGroup(
                [(name, p) for name, p in named if name.startswith(prefixes)],
                weight_decay=0.0,
                name=group,
                clip=False,
                options={**_ADAM, "maximize": group == _MULTIPLIERS},
            )
            for group, prefixes in own.items()
        ]
        return kept + [group for group in further if group.params]

    def group_lr(self, group: str, lr: float, step: int, steps: int) -> float:
        """Return the constant rates of gates and multipliers, and the scheduled one of the weights."""
        rates = {_GATES: self.config.gates_lr, _MULTIPLIERS: self.config.multipliers_lr}
        return rates.get(group, lr)

    def after_step(self, step: int) -> None:
        """Keep the gates where they can still move."""
        super().after_step(step)
        for gates in (self.image_gates, self.text_gates):
            if gates is not None:
                gates.clamp_()

    def reshape_is_due(self, step: int) -> bool:
        """Say whether the towers are to be cut."""
        return compaction_is_due(step, self.config.compact_at, self.image_gates is None)

    def reshape(self) -> str:
        """Cut both towers to what the gates keep.

        Returns:
            What is left, for the log.
        """
        assert self.image_gates is not None and self.text_gates is not None
        gates = self.image_gates.settled(), self.text_gates.settled()
        sizes = self.image_gates.sizes, self.text_gates.sizes
        kept = [count_kept(values) for values in gates]
        self.model, self.model_config = compact_model(self.model, self.model_config, *gates)
        self._drop_gates()
        towers = "; ".join(
            f"{name} width {count.hidden}, heads {'+'.join(map(str, count.heads))}, "
            f"units {'+'.join(map(str, count.units))}"
            for name, count in zip(("image", "text"), kept, strict=True)
        )
        return f"cut to {1 - _share_gone(sizes, kept):.1%} of the attention and MLP parameters ({towers})"

    def _drop_gates(self) -> None:
        self.image_gates = self.text_gates = self.multipliers = None

    def structure(self) -> dict[str, Any]:
        """Tell the dims of the cut towers; nothing before the cut."""
        return {} if self.image_gates is not None else {COMPACT: self.model_config[COMPACT]}

    def restore_structure(self, structure: Mapping[str, Any]) -> None:
        """Build the cut towers, whose weights follow from the checkpoint."""
        frozen = {name for name, weight in self.model.named_parameters() if not weight.requires_grad}
        self.model_config = {**self.model_config, **structure}
        model = build_compact(self.model_config).to(self.image_mean.device)
        for name, weight in model.named_parameters():
            weight.requires_grad_(name not in frozen)
        self.model = model
        self._drop_gates()


def _share_gone(sizes: Sequence[TowerSizes], kept: Sequence[KeptCounts]) -> float:
    """Return the share of the whole towers' attention and MLP parameters that was cut."""
    left = sum(kept_parameters(*tower) for tower in zip(sizes, kept, strict=True))
    return 1 - left / sum(map(prunable_parameters, sizes))


def whole_sizes(config: Mapping[str, Any]) -> tuple[TowerSizes, TowerSizes]:
    """Read the sizes of both towers before anything was cut off a model's config.

    Args:
        config: Of open_clip's kind, with or without ``compact_cfg``.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    width, text_width = vision.get("width", 768), text.get("width", 512)
    image_sizes = TowerSizes(
        vision.get("layers", 12), width // vision.get("head_width", 64), width, int(width * vision.get("mlp_ratio", 4))
    )
    text_sizes = TowerSizes(
        text.get("layers", 12), text.get("heads", 8), text_width, int(text_width * text.get("mlp_ratio", 4))
    )
    return image_sizes, text_sizes
