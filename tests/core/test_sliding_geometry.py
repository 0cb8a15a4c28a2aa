"""Windows, weights and padding are MONAI's, for any size a scan may have."""

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from perturbox.model.windows import Grid, Window, importance

AXES = st.lists(st.tuples(st.integers(1, 20), st.integers(4, 9)), min_size=2, max_size=3)


@settings(max_examples=60, deadline=None)
@given(AXES, st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.625]), st.integers(1, 2))
def test_windows_lie_where_monais_do(axes, overlap, images):
    shape, size = (tuple(numbers) for numbers in zip(*axes, strict=True))
    grid = Grid.over(torch.zeros(images, 1, *shape), Window(size, overlap))

    padded = tuple(max(n, s) for n, s in zip(shape, size, strict=True))
    step = _get_scan_interval(padded, size, len(shape), (overlap,) * len(shape))
    expected = dense_patch_slices(padded, size, step)
    assert grid.count == len(grid.places) == images * len(expected)
    before = [b for b, _ in grid.pads]
    for place, box in zip(grid.places, expected * images, strict=True):
        # In MONAI's padded volume a window starts `before` voxels earlier and is never cut off.
        inside = tuple(
            slice(max(b.start - p, 0), min(b.stop - p, n)) for b, p, n in zip(box, before, shape, strict=True)
        )
        assert place.box == inside
    assert all(grid.places[k].image == k // len(expected) for k in range(len(grid.places)))
    assert [sum(pad) for pad in grid.pads] == [p - n for p, n in zip(padded, shape, strict=True)]
    assert bool((grid.total > 0).all())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 24), min_size=2, max_size=3), st.sampled_from([0.05, 0.125, 0.3]), st.booleans())
def test_weights_are_monais_bit_for_bit(size, sigma_scale, gaussian):
    blend = "gaussian" if gaussian else "constant"
    for dtype in (torch.float32, torch.float64):
        window = Window(tuple(size), blend=blend, sigma_scale=sigma_scale)
        expected = compute_importance_map(tuple(size), mode=blend, sigma_scale=sigma_scale, dtype=dtype)
        assert torch.equal(importance(window, torch.zeros(1, dtype=dtype)), expected)


@settings(max_examples=25, deadline=None)
@given(AXES, st.integers(0, 2**31))
def test_a_support_takes_exactly_the_windows_that_touch_it(axes, seed):
    shape, size = (tuple(numbers) for numbers in zip(*axes, strict=True))
    support = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.03
    support.view(-1)[seed % support.numel()] = True
    x = torch.zeros(1, 1, *shape)
    whole, part = Grid.over(x, Window(size)), Grid.over(x, Window(size), support)
    assert part.places == [place for place in whole.places if support[place.box].any()]
    assert part.count == whole.count
    assert torch.equal(part.total[0, 0][support], whole.total[0, 0][support])
    assert part.total[0, 0][~support].isinf().all()
