"""`certificate.html`: what `perturbox certify` found, for a reader with a browser; all stands in certificate.json."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from perturbox.certificates.document import percent, unit_of
from perturbox.certificates.smoothed import Certified
from perturbox.io.formats import PHOTOGRAPHS
from perturbox.report import charts, colours
from perturbox.report.display import Axes, axes_of, crop, pick
from perturbox.report.encode import png, text
from perturbox.report.facts import duration, facts, model_facts, short_hash, versions
from perturbox.report.findings import readable
from perturbox.report.frame import RESEARCH, fill, folded, page
from perturbox.report.load import without_private
from perturbox.report.pictures import filled, shade
from perturbox.report.plates import HU_WINDOWS
from perturbox.report.story import plane_name
from perturbox.report.tables import table
from perturbox.report.words import fixed, number
from perturbox.types import Volume

NOTICE = f"Certified segmentation · {RESEARCH}"
MARK = f"CERTIFIED SEGMENTATION - {RESEARCH.upper()}"  # in the pictures' files, which hold Latin letters only
SHARE = 0.75  # of an abstained pixel's colour that says so


def build_certificate(document: Mapping[str, Any], found: Certified, clean: np.ndarray, image: Volume) -> str:
    """The page of a certificate as one text; clean: the model's own labels "*s" of the scan without noise."""
    told = without_private(dict(document))
    body = fill(
        "certificate.html",
        headline=escape(told["summary"]["headline"]),
        warnings=folded(_caveats(told)),
        pictures=pictures(told, found, clean, image),
        structures=structures_table(told),
        certifies=_listed(told["summary"]["certifies"]),
        never=_listed(told["summary"]["not"]),
        border=border_table(told),
        facts=facts(_facts(told)),
        model=model_facts(told["victim"]),
    )
    shape, flat = told["source"]["shape"], len(told["source"]["shape"]) == 2
    grid = f"{' × '.join(map(str, shape))} {'pixels' if flat else 'voxels'}"
    return page(
        body,
        title=_title(told["certified_of_structures"]),
        subtitle=f"{'CT' if told['unit'] == 'HU' else 'Scan'} of {grid} · model “{told['victim']['title']}”, smoothed",
        footer="All of it stands in certificate.json beside this page.",
        structures=len(found.tree.nodes),
        notice=NOTICE,
    )


def _title(share: float | None) -> str:
    if share is None:
        return "Certificate: the model finds nothing here"
    return f"Certified: {percent(share)} of what the model finds"


def _caveats(document: Mapping[str, Any]) -> list[str]:
    stopped = document["summary"]["stopped"]
    return [*([stopped] if stopped else []), *document["warnings"]]


def _listed(sentences: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in sentences)}</ul>"


# ---- tables ----


def structures_table(document: Mapping[str, Any]) -> str:
    head, rows = (document["summary"]["table"][part] for part in ("head", "rows"))
    numbers = {name: n for n, name in enumerate(document["structures"], 1)}
    top = "".join(f'<th scope="col">{escape(one)}</th>' for one in head)
    body = "".join(
        f'<tr><th scope="row">{charts.square(numbers[name])}{escape(readable(name))}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return (
        f'<div class="table" tabindex="0"><table class="numbers"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def border_table(document: Mapping[str, Any]) -> str:
    """Abstained voxels by their distance to the border."""
    unit = "pixels" if document["sizes"] == "pixels" else "mm"
    rows = []
    for row in document["border"]:
        where = "at the border" if row["above"] is None else f"up to {number(row['up_to'])} {unit} away"
        where = f"more than {number(row['above'])} {unit} away" if row["up_to"] is None else where
        share = row["abstained"] / row["voxels"] if row["voxels"] else None
        rows.append([where, f"{row['voxels']:,}", f"{row['abstained']:,}", percent(share)])
    return table(["Voxels", "In all", "Abstained", "Share"], rows) if rows else "<p>The model finds no border.</p>"


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    unit, effort, adaptive = unit_of(document), document["effort"], document["adaptive"]
    least = document["least_votes"]
    needed = f"{least} of {document['n']} votes or more certify" if least is not None else "no count of votes certifies"
    pairs = [
        ("Noise", f"normal, σ {number(document['sigma'])} {unit}, another for each copy"),
        ("Copies", f"{document['n0']} choose the answers, {document['n']} others vote"),
        (
            "Tests",
            f"{document['tests']:,} voxels, binomial with τ {number(document['tau'])}, "
            f"{document['correction'].capitalize()} at α {number(document['alpha'])}: {needed}",
        ),
    ]
    if adaptive:
        told = "; ".join(f"{group}: {percent(share)}" for group, share in adaptive["certified"].items())
        pairs.append(("Groups, share of all voxels", told or "none"))
        pairs.append(("Certified information", f"{fixed(adaptive['information'], 3)} of 1"))
    return [
        *pairs,
        ("Of all voxels", f"{percent(document['certified'])} certified, background among them"),
        ("Method", document["paper"]),
        ("Effort", f"{number(effort['forwards'])} predictions, {duration(effort['seconds'])}, on {document['device']}"),
        ("Seed", str(document["seed"])),
        ("Versions", versions(document["versions"])),
        ("Input", f"{document['source']['dtype']}, SHA-256 {short_hash(document['source']['sha256'])}"),
        ("Model", f"{document['victim']['name']}, SHA-256 {short_hash(document['victim']['sha256'])}"),
    ]


# ---- pictures ----


def pictures(document: Mapping[str, Any], found: Certified, clean: np.ndarray, image: Volume) -> str:
    """The slice in which most of the structures' voxels abstain: as the model labels it, as it is certified, and how
    many copies agree."""
    flat = image.dims == 2
    names, tree = found.names, found.tree
    axes = axes_of((*image.shape, 1)[:3], image.affine, flat and image.format in PHOTOGRAPHS)  # type: ignore[arg-type]

    def deep(array: np.ndarray) -> np.ndarray:
        return array[..., None] if flat else array

    before, certified = deep(tree.numbers(clean)), deep(found.map)
    abstained = certified == names["abstained"]
    look = document["summary"]["look"] or {"axis": 2, "index": 0}
    file, index = look["axis"], look["index"]
    axes = crop(axes, before > 0)
    plane = next(a for a, axis in enumerate(axes) if axis.file == file)
    axes = _at(axes, plane, index)

    def cut(array: np.ndarray) -> np.ndarray:
        """The slice "… rows columns", the head above."""
        slab = np.take(pick(array, axes), 0, array.ndim - 3 + plane)
        slab = slab[..., ::-1, :] if plane != 0 else slab
        return np.repeat(np.repeat(slab, 2, -2), 2, -1)

    channels = image.data if len(image.data) == 3 and image.format in PHOTOGRAPHS else image.data[:1]
    values = np.moveaxis(cut(channels[..., None] if flat else channels), 0, -1)
    window = _window(image)
    drawn = np.zeros(int(certified.max()) + 1, np.int64)  # values of the map -> numbers of colours
    for colour, node in enumerate(tree.nodes):
        if names[node.name] < len(drawn):
            drawn[names[node.name]] = colour
    gone, untested = cut(abstained), cut(certified == names.get("not tested", -1))
    after = filled(shade(values, window), drawn[cut(certified)])
    after[gone] = (after[gone] * (1 - SHARE) + np.array(colours.rgb(colours.ABSTAINED)) * SHARE).astype(np.uint8)
    agreed = np.repeat((255.0 * cut(deep(found.on_grid(found.votes))) / (found.question.n or 1))[..., None], 3, -1)
    for picture in (after, agreed):
        picture[untested] = picture[untested] // 3
    asked = f"grey: how many of {document['n']} copies give the answer, white all"
    rows, across = (axes[a] for a in range(3) if a != plane)
    shape = [round(2 * (np.ptp(axis.kept) + 1) * axis.spacing) for axis in (across, rows)]
    label = "Image" if flat else f"{plane_name(axes, plane).capitalize()} slice {index + 1} of {axes[plane].length}"
    figures = "".join(
        f'<figure><img width="{shape[0]}" height="{shape[1]}" alt="{label}, {caption}" '
        f'src="data:image/png;base64,{text(png(picture.astype(np.uint8), MARK))}"><figcaption>{caption}</figcaption>'
        "</figure>"
        for picture, caption in (
            (filled(shade(values, window), cut(before)), "SEGMENTATION – the model without noise"),
            (after, "CERTIFIED – orange: the smoothed model abstains"),
            (agreed, f"VOTES – {asked}"),
        )
    )
    side = " The patient’s right is on the left." if axes[plane].ends[0] and plane < 2 else ""
    return f'<div class="triptych"><p>{label}, where most abstains.{side}</p>{figures}</div>{_legend(found, before)}'


def _at(axes: Axes, plane: int, index: int) -> Axes:
    z, y, x = (axis.keeping(np.array([index])) if a == plane else axis for a, axis in enumerate(axes))
    return z, y, x


def _window(image: Volume) -> tuple[float, float]:
    """(width, centre) in the scan's unit."""
    if image.unit == "HU":
        return float(HU_WINDOWS[0][1]), float(HU_WINDOWS[0][2])
    if image.dtype == np.uint8:
        return 255.0, 127.5
    low, high = np.percentile(image.data, [1, 99])
    return float(high - low) or 1.0, float(high + low) / 2


def _legend(found: Certified, before: np.ndarray) -> str:
    here = {*np.unique(before).tolist(), *found.answers[found.answers > 0].tolist()} - {0}
    items = "".join(f"<li>{charts.square(n)}{escape(readable(found.tree.nodes[n].name))}</li>" for n in sorted(here))
    return f'<ul class="legend">{items}</ul>'
