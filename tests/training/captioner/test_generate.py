import itertools
import math

import pytest
import torch

from training.captioner.config import DescribeConfig
from training.captioner.decoder import Decoder
from training.captioner.generate import write_captions
from training.captioner.vocabulary import END, PAD, START

TOKENS = 7


def decoder() -> Decoder:
    torch.manual_seed(3)
    module = Decoder((2, 16, 2), 8, TOKENS, 12)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return module.eval()


def memory(images=5) -> torch.Tensor:
    return torch.randn(images, 4, 12, generator=torch.Generator().manual_seed(5))


def search(beams, images=5, min_tokens=1, max_tokens=6):
    config = DescribeConfig(beams=beams, min_tokens=min_tokens, max_tokens=max_tokens)
    return write_captions(decoder(), memory(images), config)


def scores(module, image, written) -> list[float]:
    """Log probabilities of the token after ``written``, from a forward pass over all of it."""
    logits = module(torch.tensor([[START, *written]]), image[None])[0, -1]
    logits = logits.log_softmax(dim=0)
    logits[[PAD, START]] = -math.inf
    if not written:  # min_tokens 1
        logits[END] = -math.inf
    return logits.tolist()


@torch.no_grad()
def slow_search(module, image, beams, max_tokens=6):
    """The same search on lists, without a cache."""
    live, best = [(0.0, [])], (-math.inf, [])
    for place in range(max_tokens):
        candidates = [
            (total + score, [*written, token])
            for total, written in live
            for token, score in enumerate(scores(module, image, written))
        ]
        candidates = sorted(candidates, key=lambda pair: -pair[0])[: 2 * beams]
        ended = [pair for pair in candidates[:beams] if pair[1][-1] == END]
        best = max([best, *((total / (place + 1), written) for total, written in ended)], key=lambda pair: pair[0])
        live = [pair for pair in candidates if pair[1][-1] != END][:beams]
        if best[0] >= live[0][0] / (place + 1):
            return best
    return max([best, (live[0][0] / max_tokens, live[0][1])], key=lambda pair: pair[0])


def spelled(row) -> list[int]:
    return [token for token in row.tolist() if token != PAD]


def test_kept_keys_and_values_change_no_score():
    module, image = decoder(), memory(2)
    text = torch.tensor([[START, 3, 4, 6], [START, 5, 3, 3]])
    whole = module(text, image)
    cache = module.start(image, 1)
    steps = [module.step(text[:, place : place + 1], cache) for place in range(4)]
    assert torch.allclose(torch.cat(steps, dim=1), whole, atol=1e-5)


def test_a_token_sees_nothing_of_those_after_it():
    module, image = decoder(), memory(1)
    one, other = (module(torch.tensor([[START, 3, token, 4]]), image) for token in (5, 6))
    assert torch.equal(one[:, :2], other[:, :2])
    assert not torch.equal(one[:, 2:], other[:, 2:])


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_the_search_is_that_on_lists_without_a_cache(beams):
    found = search(beams)
    for image, text, mean in zip(memory(), found.text, found.mean_log_probability, strict=True):
        expected = slow_search(decoder(), image, beams)
        assert spelled(text) == expected[1]
        assert mean.item() == pytest.approx(expected[0], abs=1e-5)


def test_one_beam_takes_the_likeliest_token_each_time():
    found = search(1)
    for image, text in zip(memory(), found.text, strict=True):
        written: list[int] = []
        with torch.no_grad():
            while len(written) < 6 and END not in written:
                row = scores(decoder(), image, written)
                written.append(row.index(max(row)))
        assert spelled(text) == written


def test_enough_beams_find_the_best_of_all_captions():
    found = search(64, min_tokens=1, max_tokens=3)
    words = range(3, TOKENS)
    every = [[*words_, END] for count in (1, 2) for words_ in itertools.product(words, repeat=count)]
    every += [list(words_) for words_ in itertools.product(words, repeat=3)]
    with torch.no_grad():
        for image, mean in zip(memory(), found.mean_log_probability, strict=True):
            means = []
            for caption in every:
                total = sum(scores(decoder(), image, caption[:i])[token] for i, token in enumerate(caption))
                means.append(total / len(caption))
            # it stops when going on would not pay at the present mean
            assert mean.item() <= max(means) + 1e-5
            assert mean.item() >= sorted(means)[-5]


def test_an_image_gets_the_caption_it_would_get_alone():
    together = search(3, images=5)
    alone = search(3, images=1)
    assert torch.equal(together.text[:1], alone.text)


def test_no_caption_ends_before_its_shortest_length():
    found = search(3, min_tokens=4)
    assert all(END not in row[:4] for row in found.text.tolist())
