"""Infer tasks: each victim, and each attack on each victim. Every client that lists segmentations lists them."""

import itertools
from pathlib import Path

from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib import backend, forms, results, tasks
from lib.victims import Served
from perturbox.attacks.recipes import Recipe
from perturbox.jobs import Refused
from perturbox.types import ADVERSARIAL_NOTICE, InputError


class Task(InferTask):
    """Segments a scan, or attacks it and returns what the model then sees: a label map either way."""

    def __init__(self, name: str, victim: Served, recipe: Recipe | None, app):
        self.name, self.app = name, app
        description = victim.title
        if recipe is not None:
            what = f"{recipe.title} attack on {victim.title}: what a perturbed scan makes the model see."
            description = f"{what} {ADVERSARIAL_NOTICE}"
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=victim.labels,
            dimension=3 if victim.described["unit"] == "HU" else victim.dims,
            description=description,
            config=forms.fields(victim, recipe, backend.device),
        )

    def is_valid(self) -> bool:
        return True

    def __call__(self, request):
        """(file of the label map, JSON); through the queue, whatever process asks."""
        image = str(request["image"])
        name = str(request.get("_image_id") or request.get("image_id") or Path(image).name.split(".")[0])
        order = backend.order_for(self.name, request, image, name, "stock batch", self.app.datastore())
        wanted = results.wanted(request)
        here = backend.current()
        record, folder = here.run(order)
        try:
            file, told = backend.answer(order, record, folder, self.app.datastore())
            return results.converted(file, wanted), told
        finally:
            here.forget(folder)


class Batch(BatchInferTask):
    """Batch inference on this server's device that never takes an earlier attack's outcome for a patient."""

    def get_images(self, request, datastore):
        images = super().get_images(request, datastore)
        if isinstance(request.get("images"), list):
            return images  # named one by one, so meant
        return [image for image in images if not backend.is_adversarial(datastore, image)]

    def __call__(self, request, datastore, infer):
        request = {"device": backend.device, "multi_gpu": False, **request}
        total = len(self.get_images(request, datastore))
        total = min(total, int(request.get("max_batch_size") or total))
        count = itertools.count(1)  # images are done by several threads

        def told(asked, datastore):
            """One image; one that can't be done leaves the others their turn."""
            try:
                result, problem = infer(asked, datastore), ""
            except (InputError, Refused, backend.Unfinished) as error:
                result, problem = {}, f" could not be done: {error}".replace(str(asked.get("image")), "the scan")
            tasks.progress.info("Image %d of %d%s", next(count), total, problem or " is done")
            return result

        return super().__call__(request, datastore, told)


def infers(app) -> dict[str, Task]:
    return {name: Task(name, *pair, app) for name, pair in backend.tasks().items()}
