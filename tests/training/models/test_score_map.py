import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from tests.training.view_batches import boxes_of, case_a
from training.data.transforms import SampleDraws, draw_views
from training.data.views import ContainingView, ViewsConfig
from training.models.masking_config import AttentiveMasking, num_blocks_kept
from training.models.score_map import (
    block_means,
    map_entropy,
    map_scores,
    object_areas,
    object_coverage,
    patches_of,
    ranked_blocks,
    resample_matrix,
    share_on_kept,
)

CASE = case_a()
GRID = (14, 14)
VIEWS = {"image": ViewsConfig(crop_area=(0.3, 1.0), flip=0.5), "ema_image": ContainingView(("image",))}


def published_boxes(view):
    boxes = torch.from_numpy(CASE["map_pos"][:, view])
    return torch.cat([boxes, torch.zeros(len(boxes), 1, dtype=torch.int64)], dim=1)


def published_scores():
    return torch.from_numpy(CASE["map_score"]).unflatten(1, GRID)


def drawn_boxes(count=40):
    crops = [draw_views(VIEWS, 90, 70, SampleDraws(0, 0, str(row))) for row in range(count)]
    return boxes_of([c["image"] for c in crops]), boxes_of([c["ema_image"] for c in crops])


def random_scores(count, rows=4, columns=6):
    return torch.rand(count, rows, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def slow_map(scores, source, target, grid):
    """Stretch over the source's pixels, copy the target's pixels one by one, shrink, mirror: one sample."""
    top, left, height, width, flip = target.tolist()
    stretched = interpolate(scores[None, None], (int(source[2]), int(source[3])), mode="bilinear")[0, 0]
    cut = torch.zeros(height, width, dtype=scores.dtype)
    for y in range(height):
        for x in range(width):
            row, column = y + top - int(source[0]), x + left - int(source[1])
            if 0 <= row < stretched.shape[0] and 0 <= column < stretched.shape[1]:
                cut[y, x] = stretched[row, column]
    mapped = interpolate(cut[None, None], grid, mode="bilinear")[0, 0]
    return mapped.flip(1) if flip else mapped


@pytest.mark.parametrize("view", [0, 1])
def test_maps_and_masks_are_the_published_ones(view):
    mapped = map_scores(published_scores(), published_boxes(2), published_boxes(view), GRID)
    assert (mapped.flatten(1) - torch.from_numpy(CASE[f"map_view{view + 1}"])).abs().max() < 1e-12
    single = map_scores(published_scores().float(), published_boxes(2), published_boxes(view), GRID)
    assert (single.flatten(1) - torch.from_numpy(CASE[f"map_view{view + 1}"])).abs().max() < 1e-6
    masking = AttentiveMasking(kind="attentive", keep=1 - float(CASE["map_ratio"]))
    blocks = ranked_blocks(block_means(mapped, 2), num_blocks_kept(masking, 196))
    dropped = np.ones((6, 196), dtype=bool)
    np.put_along_axis(dropped, patches_of(blocks, 14, 2).numpy(), False, axis=1)
    assert np.array_equal(dropped, CASE[f"map_drop{view + 1}"])


def test_a_map_equals_the_three_steps_done_slowly_also_where_views_leave_it_or_are_mirrored():
    view, ema = drawn_boxes(12)
    shifted = view.clone()
    shifted[::2, 0] -= 15  # out of the source
    scores = random_scores(12)
    mapped = map_scores(scores, ema, shifted, (5, 3))
    for row in range(12):
        torch.testing.assert_close(
            mapped[row], slow_map(scores[row], ema[row], shifted[row], (5, 3)), atol=1e-12, rtol=0
        )


def test_a_view_that_is_the_source_has_its_scores():
    scores = random_scores(1, 14, 14)
    odd = torch.tensor([[3, 7, 210, 154, 0]])  # 15 and 11 pixels to a patch: its centre is a pixel
    assert torch.allclose(map_scores(scores, odd, odd, GRID), scores, atol=1e-12, rtol=0)
    even = torch.tensor([[3, 7, 224, 224, 0]])  # half a pixel on either side of the kink at the centre
    assert (map_scores(scores, even, even, GRID) - scores).abs().max() < 0.05


def test_a_constant_stays_constant_inside_and_rows_sum_to_less_only_where_the_view_leaves():
    view, ema = drawn_boxes()
    inside = resample_matrix(ema[:, 0:3:2], view[:, 0:3:2], 7, 14)
    assert (inside.sum(dim=2) - 1).abs().max() < 1e-12
    left = view.clone()
    left[:, 0] = ema[:, 0] - left[:, 2] // 2
    outside = resample_matrix(ema[:, 0:3:2], left[:, 0:3:2], 7, 14).sum(dim=2)
    assert (outside[:, 0] == 0).all() and (outside <= 1 + 1e-12).all()


def test_mirroring_the_map_and_the_boxes_mirrors_the_result():
    view, ema = drawn_boxes()
    scores = random_scores(len(view), 14, 14)
    mirrored = [box.clone() for box in (view, ema)]
    for box in mirrored:
        box[:, 1] = 90 - box[:, 1] - box[:, 3]
    straight = map_scores(scores, ema, view, GRID)
    torch.testing.assert_close(map_scores(scores.flip(2), mirrored[1], mirrored[0], GRID), straight.flip(2))
    turned = view.clone()
    turned[:, 4] = 1 - turned[:, 4]
    assert torch.equal(map_scores(scores, ema, turned, GRID), straight.flip(2))


def test_a_hot_patch_changes_only_what_overlaps_its_place():
    box, right_half = torch.tensor([[0, 0, 112, 112, 0]]), torch.tensor([[0, 56, 112, 56, 0]])
    scores = torch.zeros(1, 14, 14)
    scores[0, 3, 2] = 1.0
    assert map_scores(scores, box, right_half, GRID).abs().sum() == 0
    scores[0, 3, 9] = 1.0  # pixels 72 to 79: columns 4 and 5 of the right half, and what interpolation adds
    mapped = map_scores(scores, box, right_half, GRID)[0]
    assert (mapped > 0.5).nonzero().tolist() == [[3, 4], [3, 5]]
    rows, columns = mapped.nonzero().unbind(dim=1)
    assert set(rows.tolist()) <= {2, 3, 4} and set(columns.tolist()) <= {2, 3, 4, 5, 6, 7}


def test_selection_depends_on_the_order_of_scores_only():
    scores = random_scores(9, 7, 7).flatten(1)
    chosen = ranked_blocks(scores, 25)
    for change in (lambda s: s * 100, lambda s: s.exp(), lambda s: s**3 - 7):
        assert torch.equal(ranked_blocks(change(scores), 25), chosen)


def test_of_equal_scores_the_first_wins_and_inverse_is_the_complement():
    scores = torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0, 0.5]])
    assert sorted(ranked_blocks(scores, 4)[0].tolist()) == [0, 1, 3, 5]
    for kept in range(1, 6):
        highest, lowest = ranked_blocks(scores, kept)[0], ranked_blocks(scores, 6 - kept, lowest=True)[0]
        assert sorted([*highest.tolist(), *lowest.tolist()]) == list(range(6))


def test_kept_patches_are_whole_blocks_in_order():
    blocks = torch.tensor([[5, 0], [2, 3]])
    kept = patches_of(blocks, columns=6, block=2)  # a grid of 4 x 6 patches, 2 x 3 blocks
    assert kept.tolist() == [[0, 1, 6, 7, 16, 17, 22, 23], [4, 5, 10, 11, 12, 13, 18, 19]]
    means = block_means(torch.arange(24.0).reshape(1, 4, 6), 2)
    assert means.tolist() == [[3.5, 5.5, 7.5, 15.5, 17.5, 19.5]]
    assert patches_of(torch.tensor([[7, 2]]), 6, 1).tolist() == [[2, 7]]


def test_coverage_is_that_counted_pixel_by_pixel():
    box = torch.tensor([[10, 20, 40, 30, 0], [10, 20, 40, 30, 1]])
    objects = torch.tensor([[[0, 0, 25, 31], [45, 45, 100, 3], [12, 22, 0, 9]]]).expand(2, -1, -1)
    covered = object_coverage(objects, box, (4, 3))
    for row in range(4):
        for column in range(3):
            shares = []
            for top, left, height, width in objects[0].tolist():
                inside = [
                    top <= y < top + height and left <= x < left + width
                    for y in range(10 + 10 * row, 20 + 10 * row)
                    for x in range(20 + 10 * column, 30 + 10 * column)
                ]
                shares.append(sum(inside) / 100)
            assert float(covered[0, row, column]) == pytest.approx(max(shares), abs=1e-12)
    assert torch.equal(covered[1], covered[0].flip(1)) and covered.sum() > 0


def test_areas_are_those_counted_pixel_by_pixel_each_object_by_itself():
    box = torch.tensor([[10, 20, 40, 30, 0], [10, 20, 40, 30, 1]])
    objects = torch.tensor([[[0, 0, 25, 31], [12, 22, 20, 9], [45, 45, 100, 3], [12, 22, 0, 9]]]).expand(2, -1, -1)
    areas = object_areas(objects, box, (4, 3))
    for row in range(4):
        for column in range(3):
            inside = [
                top <= y < top + height and left <= x < left + width
                for top, left, height, width in objects[0].tolist()
                for y in range(10 + 10 * row, 20 + 10 * row)
                for x in range(20 + 10 * column, 30 + 10 * column)
            ]
            assert float(areas[0, row, column]) == pytest.approx(sum(inside) / 100, abs=1e-12)
    assert torch.equal(areas[1], areas[0].flip(1)) and areas.max() > 1  # two objects lie on one patch


def test_the_share_on_kept_patches_is_unknown_where_no_area_is():
    areas = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 3.0], [0.0, 0.0]]])
    shares = share_on_kept(areas, torch.tensor([[0, 2], [0, 1], [0, 2]]))
    assert shares.tolist()[::2] == [0.75, 0.0] and shares[1].isnan()
    assert share_on_kept(areas, torch.arange(4).expand(3, -1)).tolist()[::2] == [1.0, 1.0]


def test_entropy_is_1_for_a_uniform_map_0_for_a_point_and_blind_to_scale():
    point = torch.zeros(4, 4)
    point[1, 2] = 0.3
    half = torch.cat([torch.full((2, 4), 0.1), torch.zeros(2, 4)])  # uniform on 8 of 16: log 8 / log 16
    maps = torch.stack([torch.full((4, 4), 0.05), point, half])
    assert map_entropy(maps).tolist() == pytest.approx([1.0, 0.0, 0.75], abs=1e-7)
    assert map_entropy(7 * maps).tolist() == pytest.approx(map_entropy(maps).tolist(), abs=1e-7)
    assert map_entropy(torch.ones(2, 1, 1)).isnan().all() and map_entropy(torch.zeros(2, 3, 3)).isnan().all()
