"""Park's defence: spectrum, distance and switch recomputed, the reformer's form and gradient, its training and file."""

import dataclasses
import json
import math

import numpy as np
import parks
import pytest
import tiny
import torch
import victims
from safetensors.torch import load_file, save_file
from scipy import fft
from scipy.spatial.distance import mahalanobis

import perturbox as px
from perturbox.defenses import chain_of, defend, get, read_spec, training
from perturbox.defenses.park import SHIPPED, Trained
from perturbox.defenses.reformer import Reformer, reformed
from perturbox.defenses.spectrum import spectrum, usual
from perturbox.types import InputError, Volume
from perturbox.zoo.phantom import phantom_case

SPACING = (2.0, 2.0, 3.0)


def tensor(scan: Volume) -> torch.Tensor:
    return torch.from_numpy(scan.data)[None]


def by_hand(x: np.ndarray, sigma: float) -> np.ndarray:
    """Block by block with SciPy's transform."""
    whole = x[tuple(slice(n // 8 * 8) for n in x.shape)]
    corners = np.stack(np.meshgrid(*(np.arange(0, n, 8) for n in whole.shape), indexing="ij"), -1).reshape(-1, x.ndim)
    away = np.sqrt(sum(k**2.0 for k in np.meshgrid(*[np.arange(8)] * x.ndim, indexing="ij")))
    ring, rows = np.floor(away + 0.5), []
    for corner in corners:
        c = np.abs(fft.dctn(whole[tuple(slice(i, i + 8) for i in corner)], norm="ortho"))
        if c[away > 0].max() > 1e-3 * sigma:
            rows.append([np.log(c + 1e-3 * sigma)[ring == r].mean() for r in range(1, int(ring.max()) + 1)])
    return np.mean(rows, 0)


# ---------------------------------------------------------------- converter and detector


@pytest.mark.parametrize("shape", [(16, 19, 9), (27, 16)])
def test_the_spectrum_is_that_of_scipys_blocks(shape):
    x = parks.smooth_scan(0, shape).data[0].astype(np.float64)
    x[:8, :8] = 40.0  # of one value: it doesn't count
    spectra, there = spectrum(torch.from_numpy(np.stack([x, 2 * x]))[None], 5.0)
    assert there.tolist() == [True, True] and spectra.shape == (2, {2: 10, 3: 12}[len(shape)])
    np.testing.assert_allclose(spectra[0].numpy(), by_hand(x, 5.0), atol=1e-9)
    np.testing.assert_allclose(spectra[1].numpy(), by_hand(2 * x, 5.0), atol=1e-9)


def test_a_slab_thinner_than_a_block_is_continued_by_its_edge():
    x = parks.smooth_scan(0, (16, 16, 5)).data[0].astype(np.float64)
    found = spectrum(torch.from_numpy(x)[None, None], 5.0)[0][0].numpy()
    np.testing.assert_allclose(found, by_hand(np.pad(x, ((0, 0), (0, 0), (0, 3)), mode="edge"), 5.0), atol=1e-9)


def test_a_scan_of_one_value_has_no_spectrum_and_is_never_flagged():
    flat = torch.full((1, 1, 16, 16, 16), -1024.0)
    assert not spectrum(flat, 5.0)[1].any() and not parks.trained().flags(flat).any()


def test_distances_and_the_threshold_are_numpys():
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (40, 12)) @ rng.normal(0, 1, (12, 12))
    whose = np.repeat(np.arange(20), 2)

    def distance(known, point):
        covariance = np.cov(known.T)
        floor = 1e-6 * np.trace(covariance) / 12 * np.eye(12)
        return mahalanobis(point, known.mean(0), np.linalg.inv(covariance + floor))

    made = usual(torch.from_numpy(rows), whose.tolist(), 0.1)
    held = [distance(rows[whose % 10 != whose[i] % 10], rows[i]) for i in range(40)]
    assert made.threshold == pytest.approx(sorted(held)[math.ceil(0.9 * 41) - 1], rel=1e-9)
    points = rng.normal(0, 3, (3, 12))
    expected = [distance(rows, point) for point in points]
    np.testing.assert_allclose(made.distance(torch.from_numpy(points)), expected, rtol=1e-9)


# ---------------------------------------------------------------- switch


def park(trained: Trained, folder) -> px.Defense:
    trained.write(folder / "park.safetensors")
    return get("park").build({"weights": str(folder / "park.safetensors")}, None, "tiny")


@pytest.mark.parametrize("dims", [2, 3])
def test_only_what_is_flagged_is_reformed(dims, tmp_path):
    defense, trained, draws = park(parks.trained(dims=3), tmp_path), parks.trained(dims=3), torch.Generator()
    scan = parks.smooth_scan(100, (16, 18, 24)[:dims])
    clean, spoilt, spacing = tensor(scan), tensor(parks.noisy(scan)), SPACING[:dims]
    assert torch.equal(defense.filter(clean, spacing, draws), clean)
    reform = trained.reform(spoilt, spacing)
    assert not torch.equal(reform, spoilt) and torch.equal(defense.filter(spoilt, spacing, draws), reform)
    both = torch.cat([torch.cat([clean, spoilt], 1), torch.cat([clean, clean], 1)])  # scans of two channels
    found = defense.filter(both, spacing, draws)
    assert torch.equal(found[:1, :1], clean) and torch.equal(found[1:], both[1:])
    torch.testing.assert_close(found[:1, 1:], reform)


def test_a_threshold_of_ones_own_is_taken_for_that_of_the_weights(tmp_path):
    clean, draws, path = tensor(parks.smooth_scan(100)), torch.Generator(), parks.written(tmp_path)
    distance = float(parks.trained().usual[3].distance(spectrum(clean, 5.0)[0])[0])
    for threshold, same in ((0.0, False), (0.99 * distance, False), (1.01 * distance, True)):
        defense = get("park").build({"weights": str(path), "threshold": threshold}, None, "tiny")
        assert torch.equal(defense.filter(clean, SPACING, draws), clean) == same
    assert defense.spec == f"park:weights={path}:threshold={threshold}"
    with pytest.raises(InputError, match="'threshold' must be between 0 and 1000000"):
        get("park").build({"threshold": -1.0}, None, "tiny")


def test_the_two_stand_ins_are_both_sides_of_the_switch(tmp_path):
    defense, trained, draws = park(parks.trained(), tmp_path), parks.trained(), torch.Generator()
    clean = tensor(parks.smooth_scan(100))
    always, never = defense.stand_ins
    assert (always.name, never.name) == ("always reformed", "never flagged")
    assert torch.equal(always.twin(clean, SPACING, draws), trained.reform(clean, SPACING))
    assert torch.equal(never.twin(clean, SPACING, draws), clean)


# ---------------------------------------------------------------- reformer


def test_without_weights_the_last_bias_alone_is_taken_away():
    zero = {name: torch.zeros_like(weight) for name, weight in Reformer().state_dict().items()}
    x = tensor(parks.smooth_scan(0))
    assert torch.equal(reformed(x, SPACING, zero, 5.0), x)
    zero["leave.bias"] += 0.25
    assert torch.allclose(reformed(x, SPACING, zero, 4.0), x - 1.0)


def test_a_scan_is_reformed_slice_by_slice_across_the_thickest(monkeypatch):
    weights, sigma = parks.trained().weights, 5.0
    x = tensor(parks.smooth_scan(0, (15, 17, 6)))
    whole = reformed(x, SPACING, weights, sigma)
    apart = torch.stack([reformed(x[..., i], SPACING[:2], weights, sigma) for i in range(6)], -1)
    torch.testing.assert_close(whole, apart)
    turned = reformed(x.movedim(-1, 2), (3.0, 2.0, 2.0), weights, sigma)
    torch.testing.assert_close(turned.movedim(2, -1), whole)
    network = Reformer()
    network.load_state_dict(weights)
    torch.testing.assert_close(whole[..., 2], x[..., 2] - sigma * network(x[..., 2] / (4 * sigma)))
    point = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(reformed(point, SPACING, weights, sigma).square().sum(), point)
    monkeypatch.setattr("perturbox.defenses.reformer.VALUES", 300)  # one slice at once
    (chunks,) = torch.autograd.grad(reformed(point, SPACING, weights, sigma).square().sum(), point)
    torch.testing.assert_close(chunks, grad)


# ---------------------------------------------------------------- training


def test_training_learns_to_take_noise_out_and_is_the_same_again(tmp_path):
    scans = [lambda seed=seed: parks.smooth_scan(seed, (32, 32)) for seed in range(20)]

    def learned(iterations: int) -> Trained:
        return training.train(scans, "intensity", 5.0, iterations=iterations, seed=3, say=lambda text: None)

    made = learned(150)
    assert made.facts["held_out"]["noise_left"] < 0.85 and list(made.usual) == [2]
    for name in ("once", "again"):
        learned(3).write(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "once.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_the_command_trains_on_scans_of_ones_own(tmp_path, capsys):
    import nibabel as nib

    for seed in range(20):
        scan = parks.smooth_scan(seed)
        nib.save(nib.Nifti1Image(scan.data[0], scan.affine), tmp_path / f"{seed}.nii.gz")
    out = tmp_path / "mine.safetensors"
    given = ["--clean", str(tmp_path / "*.nii.gz"), "--unit", "intensity", "--sigma", "5", "--out", str(out)]
    training.main([*given, "--iterations", "2"])
    made = Trained.read(out)
    assert (made.unit, made.sigma, sorted(made.usual), made.facts["scans"]) == ("intensity", 5.0, [2, 3], 20)
    assert f"wrote {out}" in capsys.readouterr().out
    for wrong, said in (
        (["--sigma", "0"], "--sigma must lie above 0"),
        (["--clean", str(tmp_path / "no*")], "matches no file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            training.main([*given, *wrong])
        assert stopped.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    "scans, said",
    [
        ([parks.smooth_scan(0)] * 19, "19 clean scans are too few to learn from; give at least 20."),
        ([Volume(np.zeros((2, 9, 9, 9), np.float32))] * 20, "scans of one channel, and this one has 2"),
        ([Volume(np.zeros((1, 9, 9, 9), np.float32))] * 20, "Fewer than 20 of these scans hold more than one value"),
    ],
)
def test_scans_that_nothing_can_be_learned_from_are_refused(scans, said):
    with pytest.raises(InputError, match=said):
        training.train([lambda one=one: one for one in scans], "HU", 5.0, iterations=1, say=lambda text: None)


def test_the_shipped_weights_know_phantoms_they_never_saw():
    trained = Trained.read(SHIPPED)
    assert trained.unit == "HU" and SHIPPED.stat().st_size < 300_000
    hu, _, _ = phantom_case(31, shape=(128, 104, 64))
    x = torch.from_numpy(hu[None, None].astype(np.float32))
    noise = trained.sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert not trained.flags(x).any() and trained.flags(x + 10 * noise).all()
    left = trained.reform(x + noise, (3.0, 3.0, 3.0)) - x
    assert float(left.square().mean().sqrt()) < 0.85 * trained.sigma


# ---------------------------------------------------------------- its file


def changed(path, out, tensors=lambda known: known, **told):
    """The same file with other words and tensors."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        words = json.loads(file.metadata()["park"])
    save_file(tensors(load_file(path)), out, metadata={"park": json.dumps(words | told)})
    return out


def set_to(name, make):
    return lambda known: known | {name: make(known[name]).clone()}


HOSTILE = {
    "schema": {"schema": "perturbox-park/9"},
    "unit": {"unit": 3},
    "lines": {"unit": "HU\nX"},
    "sigma": {"sigma": 0},
    "sigma-nan": {"sigma": float("nan")},
    "sigma-words": {"sigma": "much"},
    "facts": {"facts": [1]},
    "nan": {"tensors": set_to("net|fine.weight", lambda t: t * float("nan"))},
    "wide": {"tensors": set_to("net|fine.weight", lambda t: t[:5])},
    "lacks": {"tensors": lambda known: {k: v for k, v in known.items() if k != "net|leave.bias"}},
    "more": {"tensors": lambda known: known | {"more": torch.ones(1)}},
    "nothing-usual": {"tensors": lambda known: {k: v for k, v in known.items() if k.startswith("net|")}},
    "short": {"tensors": set_to("3|mean", lambda t: t[:5])},
    "float32": {"tensors": set_to("3|covariance", lambda t: t.float())},
    "one-sided": {"tensors": set_to("3|covariance", lambda t: t.triu())},
    "negative": {"tensors": set_to("3|covariance", lambda t: -t)},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence(what, tmp_path):
    bad = changed(parks.written(tmp_path), tmp_path / "bad.safetensors", **HOSTILE[what])
    with pytest.raises(InputError, match=r"^'.*bad\.safetensors' holds no weights of park, or is damaged; make weight"):
        Trained.read(bad)


def test_what_is_no_such_file_is_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match=r"There are no weights '.*' of park; make weights with `python -m"):
            Trained.read(path)
    good = parks.written(tmp_path).read_bytes()
    for number, content in enumerate((good[:-9], b"", b"\x80\x04.", good + b"\0" * (1 << 22))):
        (bad := tmp_path / f"{number}.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="holds no weights of park, or is damaged"):
            Trained.read(bad)


# ---------------------------------------------------------------- before a model


def test_a_model_in_another_unit_is_refused_and_served_by_weights_of_its_own(tmp_path):
    mr = victims.textured(3, unit="intensity")
    with pytest.raises(InputError) as refused:
        defend(mr, "park")
    assert str(refused.value) == (
        "The defence 'park' was made for scans in HU and textured reads them in intensity; give it weights of such "
        "scans, or choose another defence."
    )
    own = parks.written(tmp_path, "intensity")
    scan = dataclasses.replace(parks.smooth_scan(0), unit="intensity")
    assert defend(mr, f"park:weights={own}").predict(scan).shape == scan.shape


def test_scans_of_other_dimensions_than_were_learned_from_are_refused(tmp_path):
    (one,) = chain_of([f"park:weights={parks.written(tmp_path, dims=2)}"], None, "tiny")
    with pytest.raises(InputError, match="have learned from 2D scans only and this one is 3D; make weights with"):
        one.filter(tensor(parks.smooth_scan(0)), SPACING, torch.Generator())


def test_a_file_is_known_by_what_it_holds_and_named_by_where_it_lies(tmp_path, monkeypatch):
    path = parks.written(tmp_path)
    monkeypatch.chdir(tmp_path)
    (near,) = chain_of([f"park:weights={path.name}"], None, "tiny")
    assert near.spec == f"park:weights={path}"  # so that `replay` finds it from anywhere
    other = tmp_path / "copy.safetensors"
    other.write_bytes(path.read_bytes())
    model = tiny.volume(torch.device("cpu"))
    known = [defend(model, spec).sha256 for spec in (f"park:weights={path}", f"park:weights={other}", "park")]
    assert known[0] == known[1] != known[2]
    parks.trained(iterations=6).write(other)
    assert defend(model, f"park:weights={other}").sha256 != known[0]
    assert get("park").build({}, None, "tiny").spec == "park"


def test_colons_of_a_file_are_its_own():
    assert read_spec(r"park:weights=C:\clean\mine.safetensors")[1] == {"weights": r"C:\clean\mine.safetensors"}
    with pytest.raises(InputError, match="gives weights twice"):
        read_spec("park:weights=a:weights=b")


def test_nobody_names_files_from_another_machine(tmp_path):
    with pytest.raises(InputError, match="'weights' names files of this machine and can't be set from another"):
        chain_of([f"park:weights={parks.written(tmp_path)}"], None, "tiny", local=False)
    assert chain_of(["park"], None, "tiny", local=False)[0].unit == "HU"
