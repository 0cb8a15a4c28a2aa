"""A victim is its network plus everything around it: compared with MONAI's inference, finite differences and hand
counts."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import victims
from monai.inferers import sliding_window_inference
from torch import nn

from perturbox.model.sliding import Window
from perturbox.model.victim import IntensityWindow, KeepComponents, as_input
from perturbox.types import Effort, InputError, Volume

OBLIQUE = np.array([[0.0, -1.9, 0.4, 7.0], [1.5, 0.0, 0.0, -3.0], [0.0, 0.3, 2.6, 5.0], [0, 0, 0, 1.0]])


def test_the_window_maps_linearly_and_is_flat_outside():
    x = torch.tensor([-1000.0, -250.0, 50.0, 200.0, 350.0, 3000.0], requires_grad=True)
    y = IntensityWindow(-250, 350)(x)
    assert y.tolist() == pytest.approx([-1, -1, 0, 0.5, 1, 1])
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope[[0, 5]].tolist() == [0, 0]
    assert slope[[2, 3]].tolist() == pytest.approx([2 / 600] * 2)


def test_prepare_is_differentiable_as_finite_differences_say(rng):
    image = Volume(rng.normal(0, 90, (1, 7, 6, 5)), OBLIQUE)
    bound = victims.textured(orientation="RAS", spacing=(2.2, 1.7, 2.0)).on(image)
    assert bound.grid.order != (0, 1, 2) and bound.grid.oriented_shape != bound.grid.target
    x = torch.from_numpy(image.data)[None].requires_grad_()
    y = torch.from_numpy(rng.normal(size=(1, 1, *bound.grid.target)))

    def value(values: torch.Tensor) -> torch.Tensor:
        return (bound.prepare(values) * y).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    direction = torch.from_numpy(rng.normal(size=x.shape))
    with torch.no_grad():
        step = 1e-6
        slope = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=1e-7)


def test_the_whole_prediction_is_differentiable_as_finite_differences_say(rng):
    image = Volume(rng.normal(0, 40, (1, 16, 15, 9)), OBLIQUE)
    victim = victims.textured(orientation="RAS", spacing=(2.2, 1.7, 2.0))
    victim.network.double()
    bound = victim.on(image)
    x = torch.from_numpy(image.data)[None].requires_grad_()
    y = torch.from_numpy(rng.normal(size=(1, 3, *bound.grid.target)))
    (gradient,) = torch.autograd.grad((bound(x) * y).sum(), x)
    direction = torch.from_numpy(rng.normal(size=x.shape))
    with torch.no_grad():
        step = 1e-4
        slope = ((bound(x + step * direction) - bound(x - step * direction)) * y).sum() / (2 * step)
    assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


@pytest.mark.parametrize("affine", [np.diag([2.0, 2.0, 3.0, 1.0]), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("spacing", [None, (2.5, 1.7, 2.0)])
def test_the_judge_is_monai_with_plain_interpolation(affine, spacing, rng):
    """The same prediction along another road: nibabel turns, PyTorch interpolates, MONAI slides."""
    image = victims.random_scan((25, 17, 14), affine=affine)
    victim = victims.textured(orientation="RAS", spacing=spacing, antialias=False)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(image.data[0], affine))
    x = torch.from_numpy(np.ascontiguousarray(canonical.get_fdata(dtype=np.float32)))[None, None]
    target = victim.on(image).grid.target
    resampled = F.interpolate(x, target, mode="trilinear", align_corners=False) if spacing else x
    network_input = ((resampled + 100) / 200).clamp(0, 1) * 2 - 1
    with torch.no_grad():
        logits = sliding_window_inference(
            network_input, (12,) * 3, 4, victim.network, overlap=0.5, mode="gaussian", padding_mode="replicate"
        )
    fine = F.interpolate(logits, x.shape[2:], mode="trilinear", align_corners=False) if spacing else logits
    labels = nib.Nifti1Image(fine.argmax(1)[0].numpy().astype(np.uint8), canonical.affine)
    back = nib.orientations.ornt_transform(nib.io_orientation(canonical.affine), nib.io_orientation(affine))
    expected = labels.as_reoriented(back).get_fdata()
    found = victim.predict(image)
    assert found.shape == image.shape
    # Voxels whose two best scores are equal to rounding may fall either way.
    assert (found == expected).mean() > 0.9995
    assert len(np.unique(found)) == 3


def test_a_model_of_slices_predicts_a_volume_slice_by_slice():
    image = victims.random_scan((20, 17, 5), affine=np.diag([-1.0, -1.0, 4.0, 1.0]))
    victim = victims.textured(2, orientation="RAS", spacing=(1.3, 1.4))
    whole = victim.predict(image)
    for index in range(5):
        part = dataclasses.replace(image, data=np.ascontiguousarray(image.data[:, ::-1, ::-1, index]), affine=np.eye(4))
        assert np.array_equal(whole[:, :, index], victim.predict(part)[::-1, ::-1])


def test_slices_are_those_of_the_networks_third_axis():
    image = victims.random_scan((5, 20, 17), affine=victims_affine_sra())
    victim = victims.textured(2, orientation="RAS")
    whole = victim.predict(image)
    part = dataclasses.replace(image, data=np.ascontiguousarray(image.data[:, 3]), affine=np.eye(4))
    assert np.array_equal(whole[3], victim.predict(part))


def victims_affine_sra() -> np.ndarray:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 4.0, 1.0, 1.0, 1.0
    return affine


def test_gradients_of_a_slice_stay_in_the_slice():
    image = victims.random_scan((14, 13, 4))
    bound = victims.textured(2).on(image)
    x = as_input(image, torch.device("cpu")).requires_grad_()
    logits = bound(x)
    assert logits.shape == (1, 3, 14, 13, 4)
    (gradient,) = torch.autograd.grad(logits[..., 2].square().sum(), x)
    assert (gradient[..., [0, 1, 3]] == 0).all() and (gradient[..., 2] != 0).any()


def test_two_dimensional_images():
    image = victims.random_scan((20, 17), affine=np.eye(4))
    victim = victims.textured(2, spacing=(2.0, 1.5, None), orientation="LPS")
    assert victim.on(image).grid.target == (10, 11)
    assert victim.predict(image).shape == (20, 17)


def test_a_scan_in_double_precision_or_turned_in_memory_predicts_the_same():
    image, victim = victims.random_scan(), victims.textured()
    expected = victim.predict(image)
    turned = np.flip(np.ascontiguousarray(np.flip(image.data, 1)), 1)
    frozen = image.data.copy()
    frozen.setflags(write=False)
    for data in (image.data.astype(np.float64), turned, frozen):
        assert np.array_equal(victim.predict(image.with_data(data)), expected)


def test_effort_is_counted():
    effort = Effort()
    victims.textured().predict(victims.random_scan((24, 12, 12)), effort)
    assert effort.forwards == pytest.approx(1.0)
    assert effort.backwards == 0
    assert effort.model_calls == 1  # three windows, four to a call


@pytest.mark.parametrize(
    "image, words",
    [
        (Volume(np.zeros((3, 9, 9, 9), np.float32)), "3 channels and textured reads 1; give one file"),
        (Volume(np.zeros((1, 9, 9), np.float32)), "2D and textured needs a 3D volume"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_words(image, words):
    with pytest.raises(InputError, match=words):
        victims.textured().predict(image)


def test_a_network_that_shrinks_its_windows_is_refused_in_words():
    victim = victims.textured(network=nn.Conv3d(1, 3, 3))
    with pytest.raises(InputError, match="same spatial size"):
        victim.predict(victims.random_scan())


def test_the_hash_is_that_of_the_weights():
    victim = victims.textured()
    same, other = victims.textured(), victims.textured(network=victims.conv_net(3, seed=1))
    assert len(victim.sha256) == 64
    assert victim.sha256 == same.sha256 != other.sha256
    before = victim.sha256
    with torch.no_grad():
        victim.network[0].bias[3] += 1e-6
    assert victim.sha256 != before


def test_the_hash_sees_shapes_dtypes_names_and_buffers():
    def of(**buffers: torch.Tensor) -> str:
        network = nn.Identity()
        for name, value in buffers.items():
            network.register_buffer(name, value)
        return victims.textured(network=network).sha256

    flat = torch.arange(6.0)
    variants = [
        of(a=flat),
        of(b=flat),
        of(a=flat.view(2, 3)),
        of(a=flat.view(torch.int32)),
        of(a=flat, b=torch.tensor(1)),
    ]
    assert len(set(variants)) == 5
    assert of(a=flat.double()[::2]) == of(a=torch.tensor([0.0, 2.0, 4.0]).double())
    of(a=torch.tensor(True), b=torch.zeros(0), c=flat.bfloat16())


def test_eval_mode_is_entered():
    network = nn.Sequential(nn.Conv3d(1, 3, 1), nn.Dropout(0.5))
    network.train()
    victim = victims.textured(network=network)
    image = victims.random_scan()
    assert not network.training
    assert np.array_equal(victim.predict(image), victim.predict(image))


# ---------------------------------------------------------------- clean-up


def parts(**sizes: int) -> np.ndarray:
    """Rows of ones, one per size, apart from each other."""
    labels = np.zeros((2 * len(sizes), 30), np.uint8)
    for row, size in enumerate(sizes.values()):
        labels[2 * row, :size] = 1
    return labels


def rows(labels: np.ndarray) -> list[int]:
    return [int(n) for n in (labels[::2] == 1).sum(1)]


def test_the_largest_parts_are_kept_and_of_them_those_near_the_largest():
    labels = parts(a=20, b=3, c=10, d=4)
    assert rows(KeepComponents({1: 1})(labels, 1.0)) == [20, 0, 0, 0]
    assert rows(KeepComponents({1: 2})(labels, 1.0)) == [20, 0, 10, 0]
    assert rows(KeepComponents({1: 3}, share=0.15)(labels, 1.0)) == [20, 0, 10, 4]
    assert rows(KeepComponents({1: 3}, share=0.2)(labels, 1.0)) == [
        20,
        0,
        10,
        0,
    ]  # more than the share, not equal to it
    assert rows(labels) == [20, 3, 10, 4]  # the input is left alone


def test_specks_of_other_structures_go_by_their_volume():
    clean = KeepComponents({}, minimum_ml=1.5)
    assert rows(clean(parts(a=20, b=3, c=2), 0.5)) == [20, 3, 0]
    assert rows(clean(parts(a=2), 0.5)) == [0]  # a lone speck no less than one of several
    assert rows(clean(parts(a=3), 0.5)) == [3]


def test_a_lone_part_of_a_kept_structure_stays_however_small():
    assert rows(KeepComponents({1: 1})(parts(a=1), 1e-3)) == [1]


def test_clean_up_keeps_structures_apart():
    labels = np.zeros((3, 12), np.uint8)
    labels[0, :6], labels[0, 6:], labels[2, 0], labels[2, 5:] = 1, 2, 1, 2
    cleaned = KeepComponents({1: 1, 2: 2})(labels, 1.0)
    assert cleaned[0].tolist() == [1] * 6 + [2] * 6
    assert cleaned[2].tolist() == [0] * 5 + [2] * 7
    assert not KeepComponents({1: 1})(np.zeros((3, 3), np.uint8), 1.0).any()


def test_clean_up_is_part_of_the_prediction_not_of_the_gradient():
    image = victims.organ_scan()
    image.data[0, 2, 1, 1] = 60
    plain, cleaned = victims.organ(), victims.organ_of(3, clean_up=KeepComponents({1: 1}))
    assert plain.predict(image)[2, 1, 1] == 1 and cleaned.predict(image)[2, 1, 1] == 0
    x = as_input(image, torch.device("cpu"))
    assert torch.equal(plain.on(image)(x), cleaned.on(image)(x))


def test_describe_is_what_the_contract_lists():
    described = victims.textured(
        spacing=(2.0, 2.0, None), title="A title", window=Window((8, 8, 8)), limits="Small scans. Noise."
    ).describe()
    assert described == {
        "name": "textured",
        "title": "A title",
        "labels": {"background": 0, "left": 1, "right": 2},
        "spacing_mm": [2.0, 2.0, None],
        "window": [8, 8, 8],
        "unit": "HU",
        "dims": 3,
        "channels": 1,
        "channel_names": [],
        "licence": "not stated",
        "intended_use": "not stated",
        "training_data": "not stated",
        "limits": "Small scans. Noise.",
        "intensity_window": [-100.0, 100.0],
    }


def test_label_maps_reach_the_grid_by_the_nearest_voxel():
    image = victims.organ_scan((12, 10, 8), affine=np.diag([-1.0, 1.0, 1.0, 1.0]))
    bound = victims.textured(orientation="RAS", spacing=(2.0, 1.0, 1.0)).on(image)
    labels = np.arange(12)[:, None, None] * np.ones((1, 10, 8), int)
    mapped = bound.to_grid(labels)
    assert mapped.dtype == torch.int64
    assert mapped[0, :, 0, 0].tolist() == [10, 8, 6, 4, 2, 0]
    assert bound.to_grid(labels > 5).dtype == torch.bool
    assert bound.grid_spacing(image) == pytest.approx((2.0, 1.0, 1.0))


@pytest.mark.gpu
def test_cuda_predicts_and_differentiates_as_the_cpu_does():
    image = victims.random_scan((25, 17, 14))
    here, there = (
        victims.textured(spacing=(2.5, 1.7, 2.0)),
        victims.textured(spacing=(2.5, 1.7, 2.0), device=torch.device("cuda")),
    )
    assert (here.predict(image) == there.predict(image)).mean() > 0.999
    gradients = []
    for victim in (here, there):
        x = as_input(image, victim.device).requires_grad_()
        (gradient,) = torch.autograd.grad(victim.on(image)(x).square().sum(), x)
        gradients.append(gradient.cpu())
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))
