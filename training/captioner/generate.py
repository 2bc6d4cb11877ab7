"""Write captions: beam search with kept keys and values; one beam takes the likeliest token each time.

A caption is judged by its mean log probability per token, end token included. In each step the 2M likeliest
continuations of an image's M beams are looked at: those among the first M that end are finished captions, and the first
M that do not end go on. An image is done when its best finished caption beats the mean of its best beam so far.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from training.captioner.config import DescribeConfig
from training.captioner.decoder import Cache, Decoder
from training.captioner.vocabulary import END, PAD, START


class Written(NamedTuple):
    """Captions of a batch of images.

    Attributes:
        text: Token ids without the start token, ``PAD`` behind the end, int64 [B, max_tokens].
        mean_log_probability: Per token, the end token included where there is one, [B].
    """

    text: Tensor
    mean_log_probability: Tensor


class _Beams:
    """The captions being written, and the best finished one of each image."""

    def __init__(self, images: int, config: DescribeConfig, like: Tensor) -> None:
        self._beams = config.beams
        self.total = like.new_full((images, config.beams), -torch.inf, dtype=torch.float32)  # [B, M]
        self.total[:, 0] = 0.0  # all beams would be the same at first
        self.text = torch.full((images, config.beams, config.max_tokens), PAD, device=like.device)  # [B, M, T]
        self.best = self.total.new_full((images,), -torch.inf)
        self.best_text = self.text[:, 0].clone()
        self.done = torch.zeros(images, dtype=torch.bool, device=like.device)
        self._image = torch.arange(images, device=like.device)

    def finish(self, totals: Tensor, beam: Tensor, place: int, last: int) -> None:
        """Take a finished caption of each image (minus infinity for none), if it is the best so far.

        ``last`` is the token behind what the beam has written before ``place``.
        """
        mean = totals / (place + 1)
        better = (mean > self.best) & ~self.done
        text = self.text[self._image, beam].clone()  # [B, T]
        if last != PAD:
            text[:, place] = last
        self.best = torch.where(better, mean, self.best)
        self.best_text = torch.where(better[:, None], text, self.best_text)

    def advance(self, log_probability: Tensor, place: int) -> Tensor:
        """Go on with the likeliest tokens, [B, M, V]; return which beam each one continues, [B, M]."""
        beams, vocabulary = self._beams, log_probability.shape[-1]
        totals = (self.total[..., None] + log_probability).flatten(1)
        totals, flat = totals.topk(2 * beams, dim=1)  # [B, 2M]
        beam, token = flat // vocabulary, flat % vocabulary
        ends = token == END
        ending = totals.masked_fill(~ends, -torch.inf)[:, :beams]
        likeliest, rank = ending.max(dim=1)
        self.finish(likeliest, beam.gather(1, rank[:, None])[:, 0], place, END)
        going = ends.long().argsort(dim=1, stable=True)[:, :beams]  # those that do not end, in order
        self.total, beam, token = totals.gather(1, going), beam.gather(1, going), token.gather(1, going)
        self.text = self.text[self._image[:, None], beam]
        self.text[:, :, place] = token
        self.done |= self.best >= self.total[:, 0] / (place + 1)
        return beam


@torch.no_grad()
def write_captions(decoder: Decoder, memory: Tensor, config: DescribeConfig) -> Written:
    """Write a caption for each image.

    Args:
        decoder: In evaluation mode.
        memory: Quantised image tokens, [B, N, D].
        config: Beams and lengths.

    Returns:
        The best captions found; one that reached ``max_tokens`` has no end token.
    """
    cache: Cache = decoder.start(memory, config.beams)
    beams = _Beams(len(memory), config, memory)
    first_row = torch.arange(len(memory), device=memory.device)[:, None] * config.beams
    text = torch.full((len(memory), config.beams), START, device=memory.device)
    for place in range(config.max_tokens):
        log_probability = decoder.step(text, cache).float().log_softmax(dim=-1)  # [B, M, V]
        log_probability[..., [PAD, START]] = -torch.inf
        if place < config.min_tokens:
            log_probability[..., END] = -torch.inf
        beam = beams.advance(log_probability, place)
        if bool(beams.done.all()):
            break
        cache.reorder((first_row + beam).flatten())
        text = beams.text[:, :, place]
    else:
        first = torch.zeros(len(memory), dtype=torch.int64, device=memory.device)
        beams.finish(beams.total[:, 0], first, config.max_tokens - 1, PAD)
    return Written(beams.best_text, beams.best)
