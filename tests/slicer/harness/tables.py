"""Table views of a layout."""

import slicer

from .pythonqt import qt
from .views import ViewWidget
from .widgets import published


@published(slicer)
class qMRMLTableView(qt.QTableView):
    pass


@published(slicer)
class qMRMLTableWidget(ViewWidget):
    def __init__(self, node):
        super().__init__(node, qMRMLTableView())

    def mrmlTableViewNode(self):
        return self._node

    def tableView(self):
        return self._view
