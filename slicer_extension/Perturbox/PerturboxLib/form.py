"""The attack's settings as a form, built from the JSON Schema that the server sends: nothing here knows an attack.

`x-unit`, `x-order`, `x-level`, `x-visible-if` and the schema's `required` shape the form; fields of a type that isn't
known become a line of JSON rather than being dropped. What bears `x-in` goes into that part of the request.
"""

import json
import math

import ctk
import qt
from slicer.i18n import tr as _

AUTOMATIC = "automatic"  # what stands for null in a number's field
TO_GIVE = _("to be given")  # the same where there is no default and the user must name one
LARGEST_INT = 2**31 - 1


class Form:
    """A form in `container`, a widget without a layout. `changed` is called after each edit by the user."""

    def __init__(self, container, changed):
        self.container, self.changed = container, changed
        self.layout = qt.QFormLayout(container)
        self.layout.setContentsMargins(0, 0, 0, 0)
        self.schema = {}
        self.fields = {}
        self._filling = False

    def build(self, schema: dict, hidden: tuple = ()) -> None:
        """Show the fields of a schema in their order, but for those named in `hidden`, at their defaults."""
        self.clear()
        self.schema = schema
        entries = [(name, entry) for name, entry in schema.get("properties", {}).items() if name not in hidden]
        needed = schema.get("required", [])
        entries = [(name, toGive(entry) if name in needed else entry) for name, entry in entries]
        for name, entry in sorted(entries, key=lambda item: item[1].get("x-order", 0)):
            field = makeField(entry, self._edited)
            label = qt.QLabel(entry.get("title", name))
            for widget in (label, field.widget):
                widget.toolTip = entry.get("description", "")
            field.widget.objectName = f"form_{name}"
            field.label = label
            self.layout.addRow(label, field.widget)
            self.fields[name] = field
        self.reset()

    def clear(self) -> None:
        while self.layout.rowCount():
            self.layout.removeRow(0)
        self.fields, self.schema = {}, {}

    def reset(self) -> None:
        """All fields back to the server's values."""
        self.setValues({name: entry.get("default") for name, entry in self.schema.get("properties", {}).items()})

    def values(self) -> dict:
        """The value of each field; raises ValueError that names the first which can't be read."""
        found = {}
        for name, field in self.fields.items():
            try:
                found[name] = field.read()
            except ValueError as error:
                raise ValueError(f"{field.entry.get('title', name)}: {error}") from None
        return found

    def setValues(self, values: dict) -> list:
        """Fill in what fits the schema; returns the titles of fields that were offered a value they can't take."""
        refused = []
        self._filling = True
        try:
            for name, value in values.items():
                field = self.fields.get(name)
                if field is None:
                    continue
                if valid(value, field.entry):
                    field.write(value)
                else:
                    refused.append(field.entry.get("title", name))
        finally:
            self._filling = False
        self._updateVisibility()
        return refused

    def request(self) -> dict:
        """The values as a request has them: what bears x-in in a part of its own."""
        asked = {}
        for name, value in self.values().items():
            place = self.fields[name].entry.get("x-in")
            (asked.setdefault(place, {}) if place else asked)[name] = value
        return asked

    def _edited(self, *_) -> None:
        if not self._filling:
            self._updateVisibility()
            self.changed()

    def _updateVisibility(self) -> None:
        for field in self.fields.values():
            condition = field.entry.get("x-visible-if", {})
            shown = all(self._is(name, wanted) for name, wanted in condition.items())
            field.widget.visible = shown
            field.label.visible = shown

    def _is(self, name: str, wanted) -> bool:
        other = self.fields.get(name)
        try:
            return other is None or other.read() == wanted
        except ValueError:
            return False


class Field:
    """One row: a widget, how its value is read, and how it is written."""

    def __init__(self, entry, widget, read, write):
        self.entry, self.widget, self.read, self.write = entry, widget, read, write
        self.label = None


def kinds(entry: dict) -> list:
    """The JSON types a field may have."""
    kind = entry.get("type", [])
    return list(kind) if isinstance(kind, list) else [kind]


def toGive(entry: dict) -> dict:
    """A property that a request must have: empty until the user gives it, where the server names no default."""
    return entry if "default" in entry else {**entry, "type": [*kinds(entry), "null"], "x-to-give": True}


def makeField(entry: dict, edited) -> Field:
    """The field for a property of a JSON Schema."""
    kind = [k for k in kinds(entry) if k != "null"]
    if "enum" in entry:
        return choiceField(entry, edited)
    if kind == ["boolean"]:
        return truthField(entry, edited)
    if kind in (["integer"], ["number"]):
        return numberField(entry, edited, kind == ["integer"])
    if kind == ["array"] and "enum" in entry.get("items", {}):
        return manyField(entry, edited)
    if kind == ["string"]:
        return pathField(entry, edited) if entry.get("format") == "path" else textField(entry, edited)
    return jsonField(entry, edited)


def choiceField(entry, edited) -> Field:
    box = qt.QComboBox()
    box.sizeAdjustPolicy = qt.QComboBox.AdjustToMinimumContentsLengthWithIcon
    box.minimumContentsLength = 8
    choices = entry["enum"]
    for choice in choices:
        box.addItem(AUTOMATIC if choice is None else str(choice))
    box.connect("currentIndexChanged(int)", edited)

    def write(value):
        box.currentIndex = choices.index(value)

    return Field(entry, box, lambda: choices[box.currentIndex], write)


def truthField(entry, edited) -> Field:
    box = qt.QCheckBox()
    box.connect("toggled(bool)", edited)

    def write(value):
        box.checked = bool(value)

    return Field(entry, box, lambda: bool(box.checked), write)


def numberField(entry, edited, whole: bool) -> Field:
    """A spin box; where null is allowed its lowest position says so in a word."""
    optional = "null" in kinds(entry)
    box = qt.QSpinBox() if whole else qt.QDoubleSpinBox()
    low = max(entry.get("minimum", -LARGEST_INT), -LARGEST_INT)
    high = min(entry.get("maximum", LARGEST_INT), LARGEST_INT)
    if not whole:
        box.decimals = decimals(entry)
    step = 1 if whole else stepOf(entry)
    box.singleStep = step
    null = low - step if optional else None
    if optional:
        box.specialValueText = TO_GIVE if entry.get("x-to-give") else AUTOMATIC
    box.minimum = low if null is None else null
    box.maximum = high
    if entry.get("x-unit"):
        box.suffix = f" {entry['x-unit']}"
    box.connect("valueChanged(int)" if whole else "valueChanged(double)", edited)

    def read():
        if optional and box.value == box.minimum:
            if entry.get("x-to-give"):
                raise ValueError(_("give a value"))
            return None
        return int(box.value) if whole else float(box.value)

    def write(value):
        box.value = box.minimum if value is None else value

    return Field(entry, box, read, write)


def decimals(entry: dict) -> int:
    """Enough digits for the default and the limits."""
    told = [entry.get(key) for key in ("default", "minimum", "maximum")]
    small = [abs(value) for value in told if isinstance(value, (int, float)) and value]
    least = min([*small, 1.0])
    return min(12, max(3, 2 - math.floor(math.log10(least))))


def stepOf(entry: dict) -> float:
    default = entry.get("default")
    if isinstance(default, (int, float)) and default:
        return 10.0 ** math.floor(math.log10(abs(default))) / (1 if abs(default) < 1 else 10)
    return 0.1


def manyField(entry, edited) -> Field:
    box = ctk.ctkCheckableComboBox()
    choices = entry["items"]["enum"]
    for choice in choices:
        box.addItem(str(choice))
    box.connect("checkedIndexesChanged()", edited)

    def write(value):
        checkItems(box, [choices.index(each) for each in value])

    return Field(entry, box, lambda: [choices[row] for row in checkedItems(box)], write)


def textField(entry, edited) -> Field:
    line = qt.QLineEdit()
    line.connect("textEdited(QString)", edited)

    def read():
        return None if line.text == "" and "null" in kinds(entry) else line.text

    def write(value):
        line.text = value or ""

    return Field(entry, line, read, write)


def pathField(entry, edited) -> Field:
    line = ctk.ctkPathLineEdit()
    line.connect("currentPathChanged(QString)", edited)

    def write(value):
        line.currentPath = value or ""

    return Field(entry, line, lambda: line.currentPath, write)


def jsonField(entry, edited) -> Field:
    line = qt.QLineEdit()
    line.placeholderText = "JSON"
    line.connect("textEdited(QString)", edited)

    def read():
        try:
            return json.loads(line.text)
        except ValueError:
            raise ValueError(_("'{text}' is not JSON").format(text=line.text)) from None

    def write(value):
        line.text = json.dumps(value)

    return Field(entry, line, read, write)


def valid(value, entry: dict) -> bool:
    """Whether a value fits a property's type, choices and limits."""
    types = kinds(entry)
    if value is None:
        return "null" in types or not types
    if "enum" in entry:
        return value in entry["enum"]
    if "boolean" in types:
        return isinstance(value, bool)
    if "integer" in types or "number" in types:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        whole = "number" in types or float(value).is_integer()
        return whole and entry.get("minimum", -math.inf) <= value <= entry.get("maximum", math.inf)
    if "array" in types:
        allowed = entry.get("items", {}).get("enum")
        return isinstance(value, list) and (allowed is None or all(each in allowed for each in value))
    return isinstance(value, str) if "string" in types else True


def checkedItems(box) -> list:
    """Rows of a checkable combo box that are checked."""
    return sorted(index.row() for index in box.checkedIndexes())


def checkItems(box, rows) -> None:
    """Check these rows of a checkable combo box and no others."""
    model = box.checkableModel()
    for row in range(box.count):
        state = qt.Qt.Checked if row in rows else qt.Qt.Unchecked
        box.setCheckState(model.index(row, 0), state)
