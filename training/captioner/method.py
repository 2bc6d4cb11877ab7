"""TL;DR's captioner: an image must fit through a codebook, and its caption must still be told from the codes.

    z = f(image),  k_i = argmin_k |z_i - e_k|^2,  q_i = z_i + sg(e_{k_i} - z_i)
    L = L_lm + L_vq,  L_lm = mean over the tokens of -log p(t_j | t_<j, q),
    L_vq = beta mean((sg(e) - z)^2) + mean((e - sg(z))^2)                   (Wang et al. 2023, arXiv 2305.20087)

Where we differ: the tower has one kind of token (its patches), codes that nobody chooses move to live tokens, the end
of a caption that was cut is no target, and means are over the whole batch on any number of processes. It is a method
without a contrastive part: nothing is gathered, and a loop of its own (``fit.py``) looks at held-out pairs.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from training.captioner.config import CaptionerConfig
from training.captioner.model import CaptionModel
from training.data.loader import Batch
from training.engine.holdout import evaluating
from training.losses.caption import caption_nll, places_that_count
from training.losses.vq import perplexity
from training.methods.base import Method, MethodConfig
from training.methods.exchange import ImageInput, ParamGroup, StepOutput
from training.models.masking_config import NoMasking

_PRECISION = 5


class Captioner(Method):
    """The captioner in training; ``model`` is what is kept of it."""

    model: CaptionModel

    def __init__(self, config: CaptionerConfig, model: CaptionModel) -> None:
        """Prepare.

        Args:
            config: Its entry in params.yaml.
            model: Freshly built.
        """
        super().__init__(MethodConfig(), model, ImageInput(config.views, NoMasking(kind="none")))
        self.captioner = config
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, batch: Batch, step: int) -> StepOutput:
        """Compute both losses on this rank's rows; means are those of the rows of all ranks.

        Args:
            batch: Images, uint8 [B, 3, S, S], and token ids, int64 [B, T].
            step: Optimiser step, from 0.
        """
        scores = self.model(self._pixels(batch, "image", 0), batch["text"], batch["text_cut"])
        quantised = scores.quantised
        counts = _counts(quantised.codes, self.captioner.codebook.size)
        totals = torch.cat([counts, places_that_count(scores.labels)[None]])
        size = dist.get_world_size() if dist.is_initialized() else 1
        if size > 1:
            dist.all_reduce(totals)
        counts, places = totals[:-1], totals[-1]
        self._seen = (quantised.parts, quantised.codes.flatten(), counts)
        # the gradients of the ranks are averaged, and not all ranks have as many tokens
        caption_loss = caption_nll(scores.logits, scores.labels) * size / places
        logs = {"perplexity": perplexity(counts), "codes_in_use": (counts > 0).sum()}
        return StepOutput({"caption_loss": caption_loss, "vq_loss": quantised.loss}, logs)

    def after_step(self, step: int) -> None:
        """Let codes that are averages follow their tokens, and move dead ones when it is time."""
        assert self._seen is not None, "a step comes first"
        (parts, codes, counts), self._seen = self._seen, None
        quantiser, config = self.model.quantiser, self.captioner
        quantiser.follow(parts, codes, counts)
        every = config.codebook.revive_every
        if every and step % every == 0 and step <= config.codebook.revive_until * config.budget.steps:
            quantiser.revive(parts, (config.seed, step))

    def param_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Spare the codebook as well as vectors from weight decay: it would pull codes that nothing has chosen."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        decayed = [name for name, p in named if p.ndim >= 2 and name != "model.quantiser.codebook"]
        return [
            ParamGroup([(name, p) for name, p in named if name in decayed], weight_decay),
            ParamGroup([(name, p) for name, p in named if name not in decayed], 0.0),
        ]


def _counts(codes: Tensor, size: int) -> Tensor:
    """Count how often each code occurs, int64 [K]."""
    return torch.bincount(codes.flatten(), minlength=size)


def captioner_scores(captioner: Captioner, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """Look at held-out pairs: the losses, and how the codebook is used on them.

    Args:
        captioner: Every rank must call it.
        batches: The pairs, whole images, [B, ...] each, in main memory.
        device: Where the captioner is.

    Returns:
        Mean caption loss per token, mean loss of the codebook, its perplexity, and how many codes nothing chose.
    """
    size = captioner.captioner.codebook.size
    nll, vq = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
    places = torch.zeros((), dtype=torch.int64, device=device)
    counts = torch.zeros(size, dtype=torch.int64, device=device)
    with evaluating(captioner):
        for batch in batches:
            batch = {name: value.to(device) for name, value in batch.items()}
            image = captioner.normalize(batch["image"])
            scores = captioner.model(image, batch["text"], batch["text_cut"])
            nll += caption_nll(scores.logits, scores.labels)
            places += places_that_count(scores.labels)
            vq += scores.quantised.loss * len(image)
            counts += _counts(scores.quantised.codes, size)
    rows = sum(len(batch["image"]) for batch in batches)
    found = {
        "caption_loss": nll / places,
        "vq_loss": vq / rows,
        "perplexity": perplexity(counts),
        "unused_codes": (counts == 0).sum(),
    }
    return {f"holdout/{name}": round(float(value), _PRECISION) for name, value in found.items()}
