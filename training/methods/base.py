"""The contract between a method and the engine: encode this rank's batch, then compute losses on gathered features."""

from collections.abc import Mapping
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from assets.language.lexicon import Lexicon
from assets.section import Section
from training.config import BudgetConfig
from training.data.colour import change_colours
from training.data.loader import Batch
from training.data.views import ContainingView, View, ViewsConfig
from training.engine.gather import GatheredFeatures, gather
from training.methods.exchange import EmbedFn, Features, ImageInput, Needs, ParamGroup, StepOutput
from training.models.ema_tower import EmaPass, EmaTower
from training.models.frozen_text import FrozenTextModel, model_features
from training.models.image_pass import ImagePass
from training.models.lexical import LexicalModel
from training.models.lora_text import LoraText
from training.models.masking import choose_patches, watch_masks
from training.models.masking_config import AttentiveMasking, Masking, NoMasking, OracleMasking
from training.models.start import Began
from training.models.text_draws import draw_rows
from training.models.text_pass import accepts_short_text, encode_text
from training.teachers.source import TeacherSource

MAX_LOGIT_SCALE = 4.605170185988092  # log 100, the bound of CLIP


class MethodConfig(Section):
    """Base of the methods' own configs; each adds ``kind``, its key in ``training.methods.METHODS``."""


class Method(nn.Module):
    """Base class with the defaults; a subclass names its towers ``model`` (an open_clip model, what is exported)."""

    Config: type[MethodConfig] = MethodConfig
    image_mean: Tensor
    image_std: Tensor
    episode_steps: int = 0
    """Steps between two calls of ``on_epoch``, the first before step 0; 0 for none."""
    needs_frozen_text: bool = False
    """Whether the method cannot do with a text tower."""
    reshapes: bool = False
    """Whether the model changes its shape during the run, see :meth:`reshape`."""
    learns_from_teacher: bool = False
    """Whether the method wants the run's teacher, see :meth:`attach_teacher`."""

    def __init__(self, config: MethodConfig, model: nn.Module, images: ImageInput) -> None:
        super().__init__()
        self.config = config
        self.model: Any = model
        self.model_config: dict[str, Any] = {}
        self.began: Began | None = None
        self.images = images
        self.masking: Masking = images.masking
        self.ema_tower = None if images.ema_tower is None else EmaTower(self.model.visual, images.ema_tower)
        self.register_buffer("image_mean", torch.tensor(OPENAI_DATASET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(OPENAI_DATASET_STD).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def model_options(cls, config: MethodConfig) -> dict[str, Any]:
        """Return settings of the open_clip model that this method needs beside the towers; none by default."""
        return {}

    @classmethod
    def uses_ema_tower(cls, config: MethodConfig) -> bool:
        """Say whether the losses want the averaged image tower, whatever the masking; False by default."""
        return False

    @classmethod
    def uses_features(cls, config: MethodConfig) -> bool:
        """Say whether ``snapshot`` wants the run's features in its batch, as ``features``; False by default."""
        return False

    @classmethod
    def check_text(cls, config: MethodConfig, num_slots: int) -> None:
        """Refuse frozen text that the method cannot work with; nothing by default.

        Args:
            config: The method's own.
            num_slots: Rows of text of each pair.

        Raises:
            ConfigError: With what to change.
        """

    def attach_teacher(self, teacher: TeacherSource) -> None:
        """Get to know the run's teacher; called once, before training, for methods that learn from one.

        Args:
            teacher: What it says of a batch.

        Raises:
            ConfigError: The method cannot learn from it.
        """

    def prepare(self, budget: BudgetConfig) -> None:
        """Learn the length of the run and make room for what depends on it; called once, after construction.

        Args:
            budget: The recipe's.

        Raises:
            ConfigError: The method cannot work with this budget.
        """

    def views(self) -> dict[str, ViewsConfig]:
        """Name the random views of each image; ``image`` must be one, the default has no other."""
        return {"image": self.images.views}

    @property
    def accepts_short_text(self) -> bool:
        """Whether texts may come without the columns that are padding in all of them."""
        return self.lora is not None or accepts_short_text(self.model)

    def needs(self) -> Needs:
        """Say what the loader puts into the batch; with an averaged tower also ``ema_image``, around all views."""
        views: dict[str, View] = dict(self.views())
        if self.ema_tower is not None:
            views["ema_image"] = ContainingView(tuple(views), self.ema_tower.config.shrink)
        masking = self.images.masking
        objects = isinstance(masking, OracleMasking) or self._watches
        return Needs(views, objects or isinstance(masking, AttentiveMasking), objects)

    def normalize(self, image: Tensor) -> Tensor:
        """Turn uint8 pixels [B, 3, S, S] into the floats the tower expects, by open_clip's mean and deviation."""
        return (image.float() / 255 - self.image_mean) / self.image_std

    def _pixels(self, batch: Batch, name: str, number: int) -> Tensor:
        """Return a view as the tower expects it, in training with its colours changed."""
        view = self.views()[name]
        if view.colour is None or not self.training:
            return self.normalize(batch[name])
        return (self._colours(batch, name, view, number) - self.image_mean) / self.image_std

    def _colours(self, batch: Batch, name: str, view: ViewsConfig, number: int) -> Tensor:
        """Return pixels of the batch in [0, 1], in training with the changes of colour of a view."""
        pixels = batch[name].float() / 255
        if view.colour is None or not self.training:
            return pixels
        return change_colours(pixels, batch.get("view_seed", batch["seed"]), number, view.colour)

    def encode_images(self, batch: Batch, names: tuple[str, ...] = ("image",), ema: EmaPass | None = None) -> ImagePass:
        """Run the image tower on some views together; in training, on the tokens that the recipe's masking leaves.

        Args:
            batch: The views, uint8 [B, 3, S, S] each, and what the masking needs.
            names: Which views.
            ema: What the averaged tower gave, where it is known already.

        Returns:
            Features before normalisation, and what the tower knows on the way: B rows of the first view, then of the
            next.
        """
        numbers = [list(self.views()).index(name) for name in names]
        image = torch.cat([self._pixels(batch, *view) for view in zip(names, numbers, strict=True)])
        keep = None
        if self.training and not isinstance(self.masking, NoMasking):
            if ema is None and isinstance(self.masking, AttentiveMasking):
                ema = self.ema_pass(batch)
            grid: tuple[int, int] = self.model.visual.grid_size
            scores = None if ema is None else ema.scores
            views = zip(names, numbers, strict=True)
            keep = torch.cat([choose_patches(self.masking, grid, batch, view, scores) for view in views])
        return model_features(self.model, image, keep)

    def ema_pass(self, batch: Batch) -> EmaPass:
        """Run the averaged image tower on the view around all others; its colours are never changed.

        Args:
            batch: With ``ema_image``, uint8 [B, 3, S / shrink, S / shrink].
        """
        assert self.ema_tower is not None
        return self.ema_tower(self.normalize(batch["ema_image"]))

    @property
    def _watches(self) -> bool:
        return not isinstance(self.images.masking, NoMasking) and self.images.masking.watch

    def watch(self, batch: Batch) -> Features:
        """Measure what the masks of a step's batch keep, where the recipe says ``masking: {watch: true}``.

        The engine calls it after a step that it logs; what it costs is no part of training.

        Args:
            batch: That of the step.

        Returns:
            Name of a curve -> value of each row, [B], NaN for rows that have none; empty where nothing is watched.
        """
        if not self._watches:
            return {}
        scores = self.ema_pass(batch).scores if isinstance(self.masking, AttentiveMasking) else None
        views = [(name, number) for number, name in enumerate(self.views())]
        measures = watch_masks(self.masking, self.model.visual.grid_size, batch, views, scores)
        return {f"mask/{name}": values for name, values in measures.items()}

    def encode_captions(self, batch: Batch) -> Tensor:
        """Run the text tower; or, where text is frozen, pick one row of each pair: a random one in training.

        Args:
            batch: With ``text``, token ids, int64 [B, T], whose columns that are padding in all rows may have been cut;
                or with ``text_rows``, unit norm [B, R, D], and ``seed``. A frozen model with adapters reads ``text``.

        Returns:
            Features before normalisation, [B, D].
        """
        if not isinstance(self.model, FrozenTextModel):
            return encode_text(self.model, batch["text"])
        if isinstance(self.model, LexicalModel) and self.model.lora is not None:
            return self.model.encode_prompts(batch["text"])
        rows = batch["text_rows"]
        return self.model.encode_rows(draw_rows(rows, batch["seed"], 1)[:, 0] if self.training else rows[:, 0])

    @property
    def lexicon(self) -> Lexicon | None:
        """The words of a lexical model, which are exported with it; None for others."""
        return self.model.lexicon if isinstance(self.model, LexicalModel) else None

    @property
    def lora(self) -> LoraText | None:
        """The language model whose adapters are trained, which reads captions; None for other text sides."""
        return self.model.lora if isinstance(self.model, LexicalModel) else None

    def compile_towers(self) -> None:
        """Compile ``encode``, where nearly all the work is; gathering and losses stay as they are."""
        self.encode = torch.compile(type(self).encode.__get__(self))  # its own, also when called again

    def enrich(self, batch: Batch) -> Batch:
        """Add to a batch what no gradient goes through, such as a teacher's features; nothing by default.

        The engine calls it once per step, before ``encode``, and its operations count as those of the step.

        Args:
            batch: On the device.
        """
        return batch

    def encode(self, batch: Batch) -> Features:
        """Run the towers on this rank's batch.

        Args:
            batch: Views and tokens, [B, ...].

        Returns:
            Named tensors whose first dimension is B; each is gathered before the losses.
        """
        raise NotImplementedError

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """Compute the loss terms on the features of all ranks.

        Args:
            features: What ``encode`` gave, gathered, [G, ...]; ``features.rows`` are this rank's. The engine averages
                terms and gradients over ranks, so a term is the mean over these rows or the same on every rank.
            step: Optimiser step, from 0.

        Returns:
            Loss terms and logs.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, step: int) -> StepOutput:
        """Encode, gather and compute losses in one call, so that DDP and compile see a single entry."""
        return self.losses(gather(self.encode(batch)), step)

    def snapshot_views(self) -> dict[str, View]:
        """Name the views that ``snapshot`` finds in its batch; the default is the random view of training."""
        return {"image": self.images.views}

    def snapshot(self, batch: Batch) -> Features:
        """Embed a batch for ``on_epoch``, in evaluation mode and without gradients; ``encode`` by default.

        Args:
            batch: Views other than those that training will see, texts, and the run's features where
                ``uses_features`` says so: unit norm, not centred, [B, R, D].

        Returns:
            Named tensors whose first dimension is B.
        """
        return self.encode(batch)

    def on_epoch(self, epoch: int, embed: EmbedFn) -> None:
        """Act before each episode of ``episode_steps`` steps; nothing by default.

        What it changes must lie in buffers or parameters and follow from them, ``epoch`` and the snapshot: after a kill
        it is called again only if the checkpoint is that of the episode's first step.

        Args:
            epoch: Number of the episode, from 0.
            embed: Runs ``snapshot`` over the pairs of the coming episode, each rank over its share.
        """

    def held_out_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed held-out pairs as a user of the export would, in evaluation mode.

        Args:
            batch: Whole images and captions, on the device.

        Returns:
            Image and text features before normalisation, [B, D].
        """
        return self.model.encode_image(self.normalize(batch["image"])), self.encode_captions(batch)

    def held_out_logs(self, image_features: Tensor, text_features: Tensor, teacher: Features) -> dict[str, Tensor]:
        """Measure the held-out pairs by what else the method knows; nothing by default.

        Args:
            image_features: Unit norm, [n, D].
            text_features: Unit norm, [n, D].
            teacher: What ``enrich`` or the loader gave of a teacher, [n, ...] each; empty without one.
        """
        return {}

    def reshape_is_due(self, step: int) -> bool:
        """Say whether the model is to change its shape before a step; never, by default.

        Args:
            step: About to be taken, from 0.
        """
        return False

    def reshape(self) -> str:
        """Change the model's shape; the engine then builds a new optimiser around it.

        Returns:
            What was done, for the log.
        """
        raise NotImplementedError

    def structure(self) -> dict[str, Any]:
        """Tell in JSON what ``reshape`` has made of the model; empty where nothing was reshaped."""
        return {}

    def restore_structure(self, structure: Mapping[str, Any]) -> None:
        """Give a freshly built method the shape that a checkpoint tells of; its weights follow.

        Args:
            structure: From :meth:`structure`, not empty.
        """
        raise NotImplementedError

    def before_step(self, step: int, steps: int) -> None:
        """Act before a step; the default moves the averaged tower and ends the masking when its time has come.

        Args:
            step: Optimiser step, from 0.
            steps: All steps of the budget.
        """
        if self.ema_tower is not None:
            self.ema_tower.update(self.model.visual, step, steps)
        masking = self.images.masking
        if not isinstance(masking, NoMasking) and step >= steps * (1 - masking.unmasked_tail):
            self.masking = NoMasking(kind="none")

    def after_step(self, step: int) -> None:
        """Act after the optimiser; the default clamps the logit scale to [0, log 100]."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def param_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Group the trainable parameters; the default spares vectors and scalars from weight decay.

        Args:
            weight_decay: The recipe's value, for matrices and kernels.
        """
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        return [
            ParamGroup([(name, p) for name, p in named if p.ndim >= 2], weight_decay),
            ParamGroup([(name, p) for name, p in named if p.ndim < 2], 0.0),
        ]

    def group_lr(self, group: str, lr: float, step: int, steps: int) -> float:
        """Return the rate of a parameter group in a step; by default the one that the schedule gives.

        Args:
            group: Name of a group from ``param_groups``.
            lr: By the schedule, the group's scale included.
            step: Optimiser step, from 0.
            steps: All steps of the budget.
        """
        return lr
