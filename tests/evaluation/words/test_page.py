import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix

from evaluation.words.answer import answer, as_text
from evaluation.words.cut import fixed_point
from evaluation.words.index import InvertedIndex
from evaluation.words.page import page
from evaluation.words.patches import heat_address, jpeg_address, seen_pixels, word_maps
from evaluation.words.query import Asked
from evaluation.words.word_list import WordList
from tests.evaluation.squares import COLOURS
from tests.evaluation.words.seer import Preprocess, SeeingModel
from tests.evaluation.words.word_vectors import pictures

PREPROCESS = Preprocess()
RED, BLUE = COLOURS.index("red"), COLOURS.index("blue")


def blue_corner() -> np.ndarray:
    """Red, but for the cell in row 1, column 2 of a grid of 4 x 4."""
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:] = (255, 0, 0)
    pixels[16:32, 32:48] = (0, 0, 255)
    return pixels


def decoded(address: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))))


def test_the_patch_that_says_a_word_most_is_found():
    image = PREPROCESS(Image.fromarray(blue_corner()))
    blue, red = word_maps(SeeingModel(), image, [BLUE, RED])
    assert (blue.row, blue.column) == (1, 2)
    assert blue.heat.shape == (4, 4) and blue.heat[1, 2] == 1 and blue.heat.min() == 0
    assert red.heat[1, 2] == 0 and red.heat[0, 0] == pytest.approx(1, abs=1e-4)


def test_a_word_that_all_patches_say_alike_has_no_heat():
    class Even(SeeingModel):
        def encode_patches(self, image):
            return torch.full((1, 16, 6), 0.5)

    (found,) = word_maps(Even(), torch.zeros(3, 32, 32), [0])
    assert not found.heat.any()


def test_what_the_model_saw_is_the_picture_without_its_normalisation():
    pixels = seen_pixels(PREPROCESS(Image.fromarray(blue_corner())), PREPROCESS)
    assert pixels.shape == (32, 32, 3)
    assert pixels[0, 0].tolist() == [255, 0, 0] and pixels[12, 20].tolist() == [0, 0, 255]


def test_heat_is_a_translucent_pixel_per_patch():
    alpha = decoded(heat_address(np.array([[0.0, 0.5], [1.0, 0.25]], dtype=np.float32)))[..., 3]
    assert alpha[0, 0] == 0 and alpha[1, 0] == alpha.max() > alpha[0, 1] > alpha[1, 1] > 0


def test_large_pictures_are_shrunk_and_small_ones_are_not():
    assert decoded(jpeg_address(np.zeros((90, 300, 3), dtype=np.uint8), 100)).shape == (30, 100, 3)
    assert decoded(jpeg_address(np.zeros((9, 30, 3), dtype=np.uint8), 100)).shape == (9, 30, 3)


@pytest.fixture(scope="module")
def found():
    """Two hits for <red> and blue, over 14 words of which the last eight are named after numbers."""
    words = WordList((*COLOURS, *(f"w{number}" for number in range(7)), "<b>"), "v1")
    rows = np.zeros((3, len(words.words)))
    rows[0, : len(words.words)] = np.linspace(0.3, 0.2, len(words.words))
    rows[1, BLUE] = 0.5
    table = pictures(3)
    index = InvertedIndex.build(fixed_point(csr_matrix(rows)), table)
    asked = Asked("<all> words", dict.fromkeys(range(len(words.words)), 0.25))
    return answer("toy", index, words, asked, 10), words


def test_the_answer_names_ten_words_and_the_rest_as_one(found):
    text = as_text(found[0])
    lines = [line for line in text.splitlines() if "more word" in line]
    assert len(lines) == 2 and all("4 more words" in line for line in lines)  # of the query, and of the first hit
    first = [float(number) for number in re.findall(r" (0\.\d+)", lines[1])]
    assert sum(first) == pytest.approx(found[0].hits[0].score, abs=1e-3)
    assert "2 of 3 pictures fit" in text and "15 of 15 postings" in text


def test_the_page_needs_nothing_else_and_shows_where_words_are(found):
    result, words = found
    shown = {hit.key: blue_corner() for hit in result.hits}
    html = page(result, words, shown, SeeingModel(), PREPROCESS)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "&lt;all&gt; words" in html and "<all>" not in html
    # the second hit has one word, seen in the blue cell
    last = html.rpartition('<article class="found">')[2]
    assert '<rect x="2" y="1" width="1" height="1"/>' in last and "<figcaption>blue</figcaption>" in last
    assert html == page(result, words, shown, SeeingModel(), PREPROCESS)


def test_the_bars_of_a_hit_add_up_to_its_score(found):
    result, words = found
    html = page(result, words, {hit.key: blue_corner() for hit in result.hits}, SeeingModel(), PREPROCESS)
    first = html.split('<article class="found">')[1]
    values = [float(value) for value in re.findall(r"<dd[^>]*>(\d\.\d{4})</dd>", first)]
    assert len(values) == 12  # ten words, the rest, the score
    assert sum(values[:-1]) == pytest.approx(values[-1], abs=6e-4)
    widths = [float(width) for width in re.findall(r"width: ([\d.]+)%", first)]
    assert len(widths) == 11 and max(widths) == 100 and max(values[:10]) == values[widths.index(100)]
