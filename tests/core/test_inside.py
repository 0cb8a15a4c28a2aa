"""A loss on features inside the windows: its value and its gradient are those of plain autograd over all windows."""

import numpy as np
import pytest
import torch
import victims

from perturbox.model.sliding import Inside, Window, sliding_window_with
from perturbox.model.windows import Grid
from perturbox.types import Effort, InputError


def network(dims: int) -> torch.nn.Module:
    return victims.conv_net(dims).double()


def feature_loss(features, places, prediction):
    """Something that depends on features, on where a window lies and on its prediction."""
    total = prediction.new_zeros(())
    for index, place in enumerate(places):
        weight = 1 + sum(box.start for box in place.box) + 10 * place.image
        total = total + weight * features["1"][index].square().mean() + prediction[index].abs().mean()
    return total


@pytest.mark.parametrize("budget", [0, 40_000, None])
@pytest.mark.parametrize(
    "dims, shape, batch", [(3, (1, 1, 9, 11, 7), 3), (2, (2, 1, 13, 9), 4), (3, (1, 1, 4, 11, 7), 1)]
)
def test_value_and_gradient_are_those_of_autograd(dims, shape, batch, budget):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    net, window = network(dims), Window((6,) * dims, 0.5, batch=batch)
    effort = Effort()
    logits, total = sliding_window_with(
        net, x, window, Inside(("1",), feature_loss), memory_budget=budget, effort=effort
    )
    (found,) = torch.autograd.grad(logits.square().sum() + 3 * total, x)

    grid = Grid.over(x, window)
    stitched, expected = torch.zeros_like(logits), 0.0
    for place in grid.places:
        padded = grid.pad(place.of(x), window)
        hidden = net[1](net[0](padded))
        prediction = grid.crop(net[2](hidden))
        expected = expected + feature_loss({"1": hidden}, [place], prediction)
        whole = torch.zeros_like(logits)
        stitched = stitched + torch.index_put(
            whole, _indices(whole, place), (prediction * grid.weight).expand(1, whole.shape[1], *prediction.shape[2:])
        )
    stitched = stitched / grid.total
    (wanted,) = torch.autograd.grad(stitched.square().sum() + 3 * expected, x)
    torch.testing.assert_close(logits, stitched, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert found.abs().max() > 0
    recomputed = 0 if budget is None else grid.count - effort.windows_kept
    assert effort.windows == grid.count and effort.forwards == pytest.approx(1 + recomputed / grid.count)


def _indices(whole, place):
    axes = [torch.tensor([place.image]), torch.arange(whole.shape[1])]
    axes += [torch.arange(box.start, box.stop) for box in place.box]
    return torch.meshgrid(*axes, indexing="ij")


def test_windows_are_pulled_back_though_the_prediction_has_no_say():
    x = torch.randn(1, 1, 9, 9, dtype=torch.float64).requires_grad_()
    _, total = sliding_window_with(network(2), x, Window((6, 6)), Inside(("0",), lambda f, p, _: f["0"].sum()))
    (found,) = torch.autograd.grad(total, x)
    assert (found != 0).all()


def test_without_a_gradient_the_value_is_the_same():
    x = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    inside = Inside(("1",), feature_loss)
    with torch.no_grad():
        _, plain = sliding_window_with(network(2), x, Window((6, 6)), inside)
    _, tracked = sliding_window_with(network(2), x.clone().requires_grad_(), Window((6, 6)), inside)
    assert float(plain) == float(tracked.detach())


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="no layer 'encoder'; it has 0, 1, 2"):
        sliding_window_with(
            network(2), torch.zeros(1, 1, 9, 9).double(), Window((6, 6)), Inside(("encoder",), feature_loss)
        )


def test_a_victim_of_slices_names_the_slice_as_the_image():
    image, victim = victims.random_scan((9, 9, 4)), victims.textured(2)
    seen = []

    def note(features, places, prediction):
        seen.extend(place.image for place in places)
        return features["1"].mean()

    bound = victim.on(image)
    with torch.no_grad():
        logits, total = bound.look_inside(bound.prepare(torch.from_numpy(image.data)[None]), Inside(("1",), note))
    assert set(seen) == {0, 1, 2, 3} and logits.shape[2:] == (9, 9, 4) and np.isfinite(float(total))
