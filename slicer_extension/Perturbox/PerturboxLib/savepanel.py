"""Section 6: out of the scene, to disk or away."""

import qt
import slicer
from slicer.i18n import tr as _

from . import saving, scene
from .mistakes import told
from .trouble import Trouble


class SavePanel:
    """module: the PerturboxWidget."""

    def __init__(self, module):
        self.module, self.ui = module, module.ui
        self.ui.exportFolderButton.connect("clicked(bool)", lambda _: self.toFolder())
        self.ui.reportButton.connect("clicked(bool)", lambda _: self.report())
        self.ui.slicesButton.connect("clicked(bool)", lambda _: self.slices())
        self.ui.removeButton.connect("clicked(bool)", lambda _: self.remove())

    @told
    def toFolder(self) -> None:
        """Everything of the result into a new folder."""
        self._into(_("Folder for this result"), saving.saveFolder)

    @told
    def slices(self) -> None:
        """A picture of every changed slice, as the views show it now."""
        viewer = self.module.look.viewer
        if viewer is not None:
            self._into(_("Folder for the pictures"), lambda node, folder: saving.saveSlices(node, viewer, folder))

    @told
    def report(self) -> None:
        """The HTML report."""
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Save the report"), "perturbox-report.html", "HTML (*.html)"
        )
        if path:
            self._try(lambda: saving.saveReport(self.module.result.chosen, path, replace=True))

    @told
    def remove(self) -> None:
        """Delete the result from the scene, after a question."""
        node = self.module.result.chosen
        if node is None or not slicer.util.confirmOkCancelDisplay(
            _("Delete '{name}' and all its volumes and segmentations from the scene? The scan stays.").format(
                name=node.GetName()
            ),
            _("Remove this result?"),
        ):
            return
        self.module.look.leave()
        scene.remove(node)
        left = scene.results()
        self.module.parameters.result = left[-1] if left else None
        self.module.update()

    def _into(self, title: str, save) -> None:
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)
        if folder:
            self._try(lambda: save(self.module.result.node, folder))

    def _try(self, save) -> None:
        """Save and say where; what can't be written is said, too."""
        try:
            place = save()
        except Trouble as trouble:
            self.module.show(trouble)
        except OSError as error:
            said = _("It could not be written ({error}).").format(error=error.strerror or error)
            self.module.show(Trouble("disk", said, _("Choose another folder.")))
        else:
            self.module.note(f"Saved: {place}")
