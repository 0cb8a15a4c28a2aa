"""Section 4: what came out, in a sentence and a row for each structure."""

import textwrap

import qt
import slicer

from . import scene
from .mistakes import told
from .rows import VERDICTS

HEADER = 14  # characters in a line of a column's heading
NUMBERS_FROM = 1  # the first column of numbers; the last one holds words again


class ResultPanel:
    """module: the PerturboxWidget. Selected rows are what navigation and isolating work on."""

    def __init__(self, module):
        self.module, self.ui = module, module.ui
        self.rows = []
        self._shown = None
        self.ui.resultComboBox.addAttribute("vtkMRMLScriptedModuleNode", "Perturbox.Result", "1")
        self.model = qt.QStandardItemModel()
        self.sorter = qt.QSortFilterProxyModel()
        self.sorter.setSourceModel(self.model)
        self.sorter.setSortRole(qt.Qt.UserRole)
        table = self.ui.structureTable
        table.setModel(self.sorter)
        table.setSortingEnabled(True)
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.verticalHeader().hide()
        table.horizontalHeader().setDefaultAlignment(qt.Qt.AlignCenter | qt.Qt.TextWordWrap)
        table.selectionModel().connect("selectionChanged(QItemSelection,QItemSelection)", self.onSelection)

    @property
    def node(self):
        """The result that is shown; None if there is none."""
        parameters = self.module.parameters
        return parameters.result if parameters else None

    @told
    def onSelection(self, *_) -> None:
        if not self.module.updating:
            self.module.look.onStructures()

    def selected(self) -> list:
        """Names of the structures whose rows are selected; empty for all."""
        found = []
        for index in self.ui.structureTable.selectionModel().selectedRows():
            found.append(self.rows[self.sorter.mapToSource(index).row()].name)
        return found

    def select(self, name: str) -> None:
        """Select the row of a structure, as a click would."""
        for row in range(self.sorter.rowCount()):
            if self.rows[self.sorter.mapToSource(self.sorter.index(row, 0)).row()].name == name:
                self.ui.structureTable.selectRow(row)

    @told
    def copy(self) -> None:
        """Put the table on the clipboard as tab-separated text."""
        if self.node is None:
            return
        result = scene.Nodes(self.node).result
        lines = [result.headers(), *(row.cells(not result.ownReference) for row in self.rows)]
        slicer.app.clipboard().setText("\n".join("\t".join(line) for line in lines))

    def update(self) -> None:
        """Show the chosen result, once for each that is chosen and each margin that comes in."""
        node = self.node
        key = node and (node.GetID(), node.GetMTime())
        if key == self._shown:
            return
        self._shown = key
        self.ui.verdictLabel.visible = node is not None
        self.ui.structureTable.visible = node is not None
        if node is None:
            self.rows = []
            self.model.clear()
            self.ui.flagsLabel.visible = False
            self.ui.referenceNoteLabel.text = "Attack a scan, or open the example, to see a result here."
            return
        result = scene.Nodes(node).result
        self.rows = result.rows()
        self.ui.verdictLabel.text = result.verdict()
        told = [*result.flags(), *result.warnings()]
        self.ui.flagsLabel.text = "\n".join(f"• {text}" for text in told)
        self.ui.flagsLabel.visible = bool(told)
        self.ui.referenceNoteLabel.text = result.agreementNote()
        self._fill(result)
        self.ui.resultCollapsibleButton.collapsed = False

    def _fill(self, result) -> None:
        self.model.clear()
        self.model.setHorizontalHeaderLabels(["\n".join(textwrap.wrap(text, HEADER)) for text in result.headers()])
        order = list(VERDICTS)
        for place, row in enumerate(self.rows):
            texts = row.cells(not result.ownReference)
            items = [qt.QStandardItem(text) for text in texts]
            for column, item in enumerate(items):
                item.setData(place if column == 0 else sortable(texts[column]), qt.Qt.UserRole)
                if NUMBERS_FROM <= column < len(items) - 1:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            items[-1].setData(order.index(row.reason), qt.Qt.UserRole)
            swatch = qt.QPixmap(12, 12)
            swatch.fill(qt.QColor(row.colour))
            items[0].setIcon(qt.QIcon(swatch))
            self.model.appendRow(items)
        table = self.ui.structureTable
        table.sortByColumn(0, qt.Qt.AscendingOrder)  # worst first
        table.resizeColumnsToContents()
        height = table.horizontalHeader().sizeHint.height() + table.rowHeight(0) * len(self.rows) + 24
        table.setMinimumHeight(min(height, 320))


def sortable(text: str) -> float:
    """The number a cell shows, for sorting; cells without one come last."""
    digits = text.replace("−", "-").replace("≤", "").replace(">", "").split()
    try:
        return float(digits[0].replace("+", ""))
    except (IndexError, ValueError):
        return float("inf")
