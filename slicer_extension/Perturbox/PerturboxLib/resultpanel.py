"""Section 4: what came out, in a sentence, a row for each structure, and what became what."""

import html

import qt
import slicer
from slicer.i18n import tr as _

from . import certificates, flow, scene, sentences
from .mistakes import told
from .rows import VERDICTS

STRUCTURE, VERDICT, DELTA, DICE = range(4)  # what fits beside each other; the other numbers follow a click on the row
SCANS = {"perturbed": _("Perturbed scan"), "clean": _("Scan as it is")}  # as a detection names them
TALLEST = 300  # pixels of the table, which scrolls if there are more structures


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
        table.selectionModel().connect("selectionChanged(QItemSelection,QItemSelection)", self.onSelection)

    @property
    def chosen(self):
        """What is chosen of the results and certificates in the scene; None if nothing is."""
        parameters = self.module.parameters
        return parameters.result if parameters else None

    @property
    def node(self):
        """The attack's result that is shown; None if there is none."""
        return None if certificates.isCertificate(self.chosen) else self.chosen

    @property
    def certificate(self):
        """The node of the certificate that is shown; None if there is none."""
        return self.chosen if certificates.isCertificate(self.chosen) else None

    @told
    def onSelection(self, *_) -> None:
        self.explain()
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
        node, chosen = self.node, self.chosen
        key = chosen and (chosen.GetID(), chosen.GetMTime())
        if key == self._shown:
            return
        other = chosen is not None and (self._shown is None or self._shown[0] != chosen.GetID())
        self._shown = key
        self.ui.verdictLabel.visible = chosen is not None
        self.ui.structureTable.visible = node is not None
        self.ui.certificateLabel.visible = self.certificate is not None
        self.ui.emptyLabel.visible = chosen is None
        self.ui.detectionLabel.visible = False
        if node is None:
            self.rows = []
            self.model.clear()
            self.ui.notesGroupBox.visible = False
            self.explain()
            if self.certificate is not None:
                self._certify(other)
            return
        result = scene.Nodes(node).result
        self.rows = result.rows()
        self._say(result)
        self._detect(scene.Nodes(node).detections)
        chosen = [] if other else self.selected()
        self._fill(result)
        for name in chosen:
            self.select(name)
        self.explain()
        self.ui.resultCollapsibleButton.collapsed = False
        if other:
            self.reveal()

    def reveal(self) -> None:
        """Fold what led to the result, so that its sentence is the first thing to read."""
        sections = ["serverCollapsibleButton", "inputCollapsibleButton"]
        for name in sections if self.module.session.busy else [*sections, "attackCollapsibleButton"]:
            getattr(self.ui, name).collapsed = True
        area = self.ui.resultCollapsibleButton.parent()
        while area is not None and not area.inherits("QScrollArea"):
            area = area.parent()
        if area is not None:
            area.verticalScrollBar().value = 0

    def explain(self) -> None:
        """Every number of the row that is selected, and what the selected structures became; of all if none is."""
        result = scene.Nodes(self.node).result if self.node else None
        chosen = self.selected() if result else []
        one = next((row for row in self.rows if [row.name] == chosen), None)
        self.ui.detailLabel.text = sentences.detail(result, one) if one else ""
        self.ui.detailLabel.visible = one is not None
        lines = flow.lines(result, chosen) if result else []
        self.ui.flowLabel.text = _flowTable(lines)
        self.ui.flowLabel.visible = bool(lines)

    def _say(self, result) -> None:
        """The sentence, after it where the attack was stopped; warnings and remarks in one line that unfolds."""
        warnings = result.warnings()
        stopped = [warnings.pop(0)] if result.record.get("stopped_early") else []
        self.ui.verdictLabel.text = " ".join([result.verdict(), *stopped])
        self._note([*result.flags(), *warnings, result.agreementNote()])

    def _detect(self, rows: list) -> None:
        """What each detector says of either scan, in its own sentence; what has to be known of it once, at the end."""
        names = list(dict.fromkeys(row["name"] for row in rows))
        lines = []
        for name in names:
            own = [row for row in rows if row["name"] == name]
            title = own[0].get("title") or name
            lines.append(f"<b>{html.escape(_('Detector {name}: {title}').format(name=name, title=title))}</b>")
            note = own[0].get("note", "")
            for row in own:
                said = row["sentence"].removesuffix(note).rstrip() if note else row["sentence"]
                lines.append(f"{SCANS.get(row['scan'], row['scan'])}: {html.escape(said)}")
            lines += [html.escape(note)] if note else []
        self.ui.detectionLabel.text = "<br>".join(lines)
        self.ui.detectionLabel.visible = bool(lines)

    def _certify(self, other: bool) -> None:
        """A certificate in the words of its document."""
        found = certificates.Certificate(self.certificate)
        self.ui.verdictLabel.text = found.headline()
        self.ui.certificateLabel.text = found.text()
        self.ui.certificateLabel.toolTip = found.table()
        self._note(found.notes())
        self.ui.resultCollapsibleButton.collapsed = False
        if other:
            self.reveal()

    def _note(self, notes: list) -> None:
        """Sentences in one line that unfolds."""
        self.ui.notesLabel.text = "\n".join(f"• {text}" for text in notes)
        self.ui.notesGroupBox.title = _("Notes ({count})").format(count=len(notes))
        self.ui.notesGroupBox.collapsed = True
        self.ui.notesGroupBox.visible = True

    def _fill(self, result) -> None:
        self.model.clear()
        dice = _("Dice") if result.ownReference else _("Dice, expert")
        self.model.setHorizontalHeaderLabels([_("Structure"), _("Verdict"), f"Δ {result.size}", dice])
        order = list(VERDICTS)
        for place, row in enumerate(self.rows):
            score = row.dice if row.outlined else row.agreement
            texts = [row.title, row.verdict, row.deltaText, row.diceText]
            keys = [place, order.index(row.reason), row.deltaMl, 2.0 if score is None else score]
            items = [qt.QStandardItem(text) for text in texts]
            for item, key in zip(items, keys, strict=True):
                item.setData(key, qt.Qt.UserRole)
            for column in (DELTA, DICE):
                items[column].setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            items[VERDICT].setToolTip(sentences.flag(result, row))
            swatch = qt.QPixmap(12, 12)
            swatch.fill(qt.QColor(row.colour))
            items[STRUCTURE].setIcon(qt.QIcon(swatch))
            self.model.appendRow(items)
        table = self.ui.structureTable
        table.sortByColumn(STRUCTURE, qt.Qt.AscendingOrder)  # worst first
        table.resizeColumnsToContents()
        table.horizontalHeader().setSectionResizeMode(STRUCTURE, qt.QHeaderView.Stretch)
        table.verticalHeader().setDefaultSectionSize(table.fontMetrics().height() + 6)
        height = table.horizontalHeader().sizeHint.height() + table.rowHeight(0) * len(self.rows) + 4
        table.setMinimumHeight(min(height, TALLEST))
        table.setMaximumHeight(min(height, TALLEST))


def _flowTable(lines: list) -> str:
    """Three columns in a label: what it was called, what it is called now, how much."""
    rows = "".join(
        f"<tr><td>{html.escape(before)}</td><td>{f'&nbsp;→ {html.escape(after)}' if after else ''}</td>"
        f"<td align='right'>&nbsp;&nbsp;{html.escape(amount)}</td></tr>"
        for before, after, amount in lines
    )
    return f"<b>{_('What became what')}</b><table>{rows}</table>" if lines else ""
