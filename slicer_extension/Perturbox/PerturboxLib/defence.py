"""The row "Defence" under the model: a filter that stands before it, with settings that the server describes."""

import json

import qt
from slicer.i18n import tr as _

from .form import Form
from .mistakes import told

NONE = _("None")


class Defence:
    """module: the PerturboxWidget. Hidden where the server offers no defences before the model that is chosen."""

    def __init__(self, module):
        self.module, self.ui, self.session = module, module.ui, module.session
        self.form = Form(self.ui.defenceContainer, self.onForm)
        self._offered = self._built = None
        self.ui.defenceComboBox.connect("currentIndexChanged(int)", self.onDefence)

    @property
    def parameters(self):
        return self.module.parameters

    @property
    def name(self) -> str:
        """The defence that is chosen and offered before this model; empty if none is."""
        name = self._kept().get("name", "") if self.parameters else ""
        return name if name in self._schemas() else ""

    def _kept(self) -> dict:
        """The parameter node's {name, values: {defence: its settings}}."""
        return json.loads(self.parameters.defence or "{}")

    def _keep(self, **changed) -> None:
        self.parameters.defence = json.dumps({**self._kept(), **changed})

    def _schemas(self) -> dict:
        """JSON Schemas of the settings of every defence before this model, by name."""
        schema = self.session.schema
        model = (schema["models"].get(self.parameters.model) or {}) if schema and self.parameters else {}
        return model.get("defenses") or {}

    @told
    def onDefence(self, index) -> None:
        if self.module.updating or not self.parameters or index < 0:
            return
        self._keep(name=self.ui.defenceComboBox.itemData(index) or "")

    @told
    def onForm(self) -> None:
        """Store the values in the parameter node, with the defence that they belong to."""
        try:
            values = self.form.values()
        except ValueError:
            self.module.update()  # the buttons say what can't be read
            return
        self._keep(values={**self._kept().get("values", {}), self.name: values})

    def obstacle(self) -> str:
        """What of its settings can't be read, in words; empty if nothing is."""
        if not self.name:
            return ""
        try:
            self.form.values()
        except ValueError as error:
            return str(error)
        return ""

    def request(self) -> dict:
        """What a job says of it: nothing, or its name and settings as the server reads them."""
        if not self.name:
            return {}
        settings = {key: value for key, value in self.form.values().items() if value is not None}
        return {"defense": [":".join([self.name, *(f"{key}={value}" for key, value in settings.items())])]}

    def update(self) -> None:
        """Fill in what the server offers before this model, and the rows of the defence that is chosen."""
        schemas = self._schemas()
        listed = (self.session.schema.get("defenses") or []) if schemas else []
        known = [each for each in listed if each["name"] in schemas]
        names = [each["name"] for each in known]
        if names != self._offered:
            self._offered = names
            box = self.ui.defenceComboBox
            box.clear()
            for title, name, paper in (
                (NONE, "", ""),
                *((each["title"], each["name"], each.get("paper", "")) for each in known),
            ):
                box.addItem(title, name)
                box.setItemData(box.count - 1, paper, qt.Qt.ToolTipRole)
        for widget in (self.ui.defenceCaption, self.ui.defenceComboBox):
            widget.visible = bool(names)
        self.ui.defenceComboBox.currentIndex = names.index(self.name) + 1 if self.name else 0
        self._build(schemas.get(self.name))
        self.ui.defenceContainer.visible = bool(self.form.fields)
        self.ui.defenceComboBox.enabled = self.ui.defenceContainer.enabled = not self.session.busy

    def _build(self, schema: dict | None) -> None:
        """Build the rows again where the schema is another one, with the values that were set before if they fit."""
        if schema == self._built:
            return
        self._built = schema
        if schema is None:
            self.form.clear()
            return
        self.form.build(schema)
        self.form.setValues(self._kept().get("values", {}).get(self.name, {}))
