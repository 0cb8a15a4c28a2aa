"""Section 3: how much may change, how hard to try, and what happens while it is tried."""

import hashlib
import json

import qt
import slicer
from slicer.i18n import tr as _

from . import certifypanel, limits, presets, session, settings, words
from .charts import LiveTrace
from .form import Form, kinds
from .mistakes import told
from .results import DICE_LIMIT
from .serverpanel import mayGo
from .trouble import Trouble

MOST_DETECTORS = 8  # that a server takes at once
OWN = ("eps", "eps_unit", "target")  # fields of the form that have a place of their own in the panel


class AttackPanel:
    """module: the PerturboxWidget."""

    def __init__(self, module):
        self.module, self.ui, self.session = module, module.ui, module.session
        self.form = Form(self.ui.formContainer, self.onForm)
        # In Python, as .ui files can't: Slicer has no designer plug-in for plot views.
        self.traceView = slicer.qMRMLPlotView()
        self.traceView.setMRMLScene(slicer.mrmlScene)
        self.ui.traceContainer.layout().addWidget(self.traceView)
        self.live = LiveTrace(self.traceView, DICE_LIMIT)
        self.certify = certifypanel.Certify(module)
        self._methods = self._built = None
        self._drawn = 0
        for effort in presets.EFFORTS:
            self.ui.effortComboBox.addItem(effort.title, effort.name)
        for unit in limits.UNITS:
            self.ui.epsUnitComboBox.addItem(unit, unit)
        self.ui.effortComboBox.connect("currentIndexChanged(int)", self.onEffort)
        self.ui.epsUnitComboBox.connect("currentIndexChanged(int)", self.onUnit)
        self.ui.methodComboBox.connect("currentIndexChanged(int)", self.onMethod)
        self.ui.resetButton.connect("clicked(bool)", self.onReset)
        self.ui.segmentButton.connect("clicked(bool)", lambda _: self.begin("segment"))
        self.ui.attackButton.connect("clicked(bool)", lambda _: self.begin("attack"))
        self.ui.stopButton.connect("clicked(bool)", lambda _: self.stop())

    @property
    def parameters(self):
        return self.module.parameters

    @property
    def defence(self):
        """The row under the model."""
        return self.module.input.defence

    # ------------------------------------------------------------ what a user changes

    @told
    def onEffort(self, index) -> None:
        if self.module.updating or not self.parameters or index < 0:
            return
        effort = presets.find(self.ui.effortComboBox.itemData(index))
        self.parameters.effort = effort.name
        if effort.name == presets.CUSTOM:
            self.ui.advancedCollapsibleGroupBox.collapsed = False
            return
        self.form.reset()
        self.form.setValues(presets.values(effort, self.ownSteps()))
        self.keep()

    @told
    def onUnit(self, index) -> None:
        if self.module.updating or not self.parameters or index < 0:
            return
        unit = self.ui.epsUnitComboBox.itemData(index)
        self.parameters.epsUnit, self.parameters.eps = unit, limits.usual(unit)

    @told
    def onMethod(self, index) -> None:
        if self.module.updating or not self.parameters or index < 0:
            return
        self.parameters.attack = self.ui.methodComboBox.itemData(index)

    @told
    def onForm(self) -> None:
        self.parameters.effort = presets.CUSTOM
        self.keep()

    @told
    def onReset(self, *_) -> None:
        self.form.reset()
        self.parameters.effort = presets.CUSTOM
        self.keep()

    def keep(self) -> None:
        """Store the form's values in the parameter node, with the schema they belong to."""
        try:
            values = self.form.values()
        except ValueError:
            return  # shown at the button; the last values that could be read stay
        self.parameters.form = json.dumps({"schema": self._built, "values": values})

    # ------------------------------------------------------------ running

    def obstacle(self, kind: str = "attack") -> str:
        """What is missing before one can begin, in words; empty if nothing is."""
        if self.session.busy:
            return _("A job is running")
        if not self.session.connected:
            return _("Connect to a server first")
        if self.parameters is None or self.parameters.inputVolume is None:
            return _("Choose a scan first")
        if self.module.input.preflight.level == "bad":
            return self.module.input.preflight.text
        if self.defence.obstacle():
            return self.defence.obstacle()
        if kind != "attack":
            return self.certify.obstacle() if kind == certifypanel.KIND else ""
        try:
            self.form.values()
        except ValueError as error:
            return str(error)
        return ""

    @told
    def begin(self, kind: str) -> None:
        """Check, ask where it must be asked, and submit."""
        if self.obstacle(kind):
            return
        scan = self.parameters.inputVolume
        if self.module.input.preflight.level == "warn" and not slicer.util.confirmOkCancelDisplay(
            _("This scan was perturbed already: it is synthetic. Use it all the same?"), _("A synthetic scan")
        ):
            return
        if not mayGo(self.session.client, scan.GetName()):
            return
        try:
            parcel = self.module.input.parcel(kind)
            request = self.request(kind, parcel)
        except Trouble as trouble:
            refused = self._asked()
            self.module.show(trouble, lambda: self._asked() == refused)
            return
        self.session.run(request, parcel, scan)

    def _asked(self) -> tuple:
        """What a job would be about: once it is something else, a refusal no longer holds."""
        p = self.parameters
        nodes = [node and (node.GetID(), node.GetMTime()) for node in (p.inputVolume, p.referenceSegmentation, p.roi)]
        return (
            *(*nodes, p.roiSegment, p.model, p.defence),
            *(p.targets, p.attack, p.effort, p.eps, p.form, p.findMargin),
        )

    @told
    def stop(self) -> None:
        """Ask the job to end, with the best result so far."""
        self.session.stop()

    def close(self) -> None:
        """The panel is destroyed: take the live chart out of the scene, and its view away."""
        self.live.clear()
        self.traceView.setMRMLScene(None)
        self.traceView.deleteLater()

    def request(self, kind: str, parcel) -> dict:
        """The job as the server understands it. Raises Trouble where nothing is left to attack."""
        request = {"kind": kind, "victim": self.parameters.model, **self.defence.request()}
        if kind != "attack":
            return request | (self.certify.request() if kind == certifypanel.KIND else {})
        targets = self.module.input.targets
        if parcel.structures:
            targets = [name for name in targets if name in parcel.structures] if targets else list(parcel.structures)
            if not targets:
                raise Trouble(
                    "no-match",
                    _("The expert outline has none of the chosen structures."),
                    _("Choose structures that it has."),
                )
        request |= {"attack": self.parameters.attack, "target": targets, **self.form.request()}
        if not self.ownBudget():
            request |= {"eps": self.eps(), "eps_unit": self.unit()}
        if (detectors := self.detectors()) and not self.defence.name:
            request["detector"] = detectors
        return request

    def detectors(self) -> list:
        """Names of the server's detectors of this model, which are asked of an attack's scans."""
        offered = (self.session.schema.get("detectors") or []) if self.session.schema else []
        return [each["name"] for each in offered if each["victim"] == self.parameters.model][:MOST_DETECTORS]

    def findMargin(self, node, record: dict) -> None:
        """Look for the breaking points of a result, if that is asked for and the attack came to its end."""
        if self.parameters.findMargin and not record.get("stopped_early") and not self.obstacle():
            request, parcel = self.marginRequest(), self.module.input.parcel("margin")
            self.session.run(request, parcel, self.parameters.inputVolume, node)

    def marginRequest(self) -> dict:
        """The search for the breaking points that belongs to the attack as it is set."""
        asked = self.form.request()
        request = {"kind": "margin", "victim": self.parameters.model, "attack": self.parameters.attack}
        request |= self.defence.request()
        request |= {"max_eps": float(self.parameters.eps), "eps_unit": self.unit(), "target": self.module.input.targets}
        request |= {key: asked[key] for key in ("seed", "settings") if key in asked}
        # Half of an attack's steps, at most half of its own number: most start where the one before ended.
        request["steps"] = max(1, min(int(asked.get("steps", self.ownSteps())), self.ownSteps()) // 2)
        return request

    def ownSteps(self) -> int:
        """How many steps the chosen attack takes by itself; 0 where none is chosen."""
        return int(self.form.schema.get("properties", {}).get("steps", {}).get("default") or 0)

    def ownBudget(self) -> bool:
        """Whether the attack is limited by a setting of its own, so that the server's schema lets eps be left out."""
        return "null" in kinds(self.form.schema.get("properties", {}).get("eps", {}))

    def norm(self) -> str:
        field = self.form.fields.get("norm")
        return field.read() if field else "linf"

    def eps(self) -> float:
        """The slider in the server's terms: a share for l0, else in `unit`."""
        return float(self.parameters.eps) / (100 if self.norm() == "l0" else 1)

    def unit(self) -> str:
        """What the limit is in; a share of the voxels has no unit."""
        return "native" if self.norm() == "l0" else self.parameters.epsUnit

    # ------------------------------------------------------------ showing

    def update(self) -> None:
        """Fill methods and form, then show limits, buttons and progress."""
        self._offer()
        self._efforts()
        self._note()
        busy = self.session.busy
        for name in ("effortComboBox", "epsSlider", "advancedCollapsibleGroupBox", "marginCheckBox"):
            getattr(self.ui, name).enabled = not busy
        self.ui.epsSlider.enabled = not busy and not self.ownBudget()
        self.ui.epsUnitComboBox.enabled = self.ui.epsSlider.enabled and self.norm() != "l0"
        self.certify.update()
        for kind in TIPS:
            button = getattr(self.ui, f"{kind}Button")
            obstacle = self.obstacle(kind)
            button.enabled = not obstacle
            button.toolTip = obstacle or TIPS[kind]
        self.ui.stopButton.enabled = self.session.state in (session.RUNNING, session.RECONNECTING)
        stopping = self.session.state == session.STOPPING
        self.ui.stopButton.text = _("Stopping…") if stopping else _("Stop")
        limited = self._methods and not self.ownBudget()
        limit = f"{self.ui.epsSlider.value:g}{self.ui.epsSlider.suffix}" if limited else ""
        self.ui.attackCollapsibleButton.text = words.section(_("3 Attack"), limit)
        self._progress(busy)

    def _offer(self) -> None:
        schema = self.session.schema
        model = self.parameters.model if self.parameters else ""
        attacks = schema["attacks"] if schema else []
        attacks = [each for each in attacks if f"{model}-{each['name']}" in schema["models"]]
        methods = [each["name"] for each in attacks]
        if methods != self._methods:
            self._methods = methods
            self._list(attacks, schema.get("families", {}) if schema else {})
        if not methods or self.parameters is None:
            self.form.clear()
            self._built = None
            return
        if self.parameters.attack not in methods:
            first = schema["defaults"]["attack"]
            self.parameters.attack = first if first in methods else methods[0]
        self.ui.methodComboBox.currentIndex = self.ui.methodComboBox.findData(self.parameters.attack)
        self._build(schema["models"][f"{model}-{self.parameters.attack}"]["config_schema"])

    def _list(self, attacks: list, families: dict) -> None:
        """Fill the methods in the server's order, a line between the few to start with and each family of the rest."""
        box, group = self.ui.methodComboBox, None
        box.clear()
        for each in attacks:
            use, family = each.get("use", ""), each.get("family", "")
            before, group = group, "" if use else family
            if before not in (None, group):
                box.insertSeparator(box.count)
            box.addItem(f"{each['title']} – {use[:1].lower()}{use[1:]}" if use else each["title"], each["name"])
            box.setItemData(box.count - 1, families.get(family, ""), qt.Qt.ToolTipRole)

    def _build(self, schema: dict) -> None:
        """Build the form again where the schema is another one, and keep of the stored values what still fits."""
        stamp = hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:12]
        if stamp == self._built:
            return
        self._built = stamp
        self.form.build(schema, OWN)
        refused = []
        kept = json.loads(self.parameters.form or "{}")
        effort = presets.find(self.parameters.effort)
        if kept.get("values") and (kept.get("schema") == stamp or effort.name == presets.CUSTOM):
            refused = self.form.setValues(kept["values"])
        else:
            self.form.setValues(presets.values(effort, self.ownSteps()))
        self.ui.formNoteLabel.text = (
            _("Reset, as this attack doesn't take the value: {fields}.").format(fields=", ".join(refused))
            if refused
            else ""
        )
        self.ui.formNoteLabel.visible = bool(refused)
        self.ui.advancedCollapsibleGroupBox.title = _("Advanced ({count})").format(count=len(self.form.fields) + 1)
        self.keep()

    def _efforts(self) -> None:
        pace = self._pace()
        for row, effort in enumerate(presets.EFFORTS):
            title = presets.title(effort, self.ownSteps(), pace)
            if self.ui.effortComboBox.itemText(row) != title:
                self.ui.effortComboBox.setItemText(row, title)
        chosen = presets.find(self.parameters.effort if self.parameters else "standard")
        self.ui.effortComboBox.currentIndex = presets.EFFORTS.index(chosen)
        self.ui.effortComboBox.toolTip = chosen.tip

    def _pace(self) -> float:
        """Seconds a step will take on this scan; 0 where it isn't known."""
        volume = self.parameters.inputVolume if self.parameters else None
        if volume is None or volume.GetImageData() is None or self.defence.name:  # several attacks, at another pace
            return 0.0
        return settings.pace(self.parameters.model) * volume.GetImageData().GetNumberOfPoints() / 1e6

    def rememberPace(self, record: dict) -> None:
        """Learn from a finished attack how long a step takes; behind a defence there were several."""
        if "defense" in record:
            return
        seconds, voxels = record["effort"]["seconds"], 1.0
        looks = record["effort"]["forwards"]
        for length in record["source"]["shape"]:
            voxels *= length
        default = self.session.schema["defaults"]["attack"] if self.session.schema else None
        if seconds and looks and record["attack"]["name"] == default:
            settings.rememberPace(record["victim"]["name"], seconds / len(record["trace"]) / (voxels / 1e6))

    def _note(self) -> None:
        """The unit that the model's scans have, and what the limit means for this one."""
        victim = self.module.input.victim
        own, norm = victim["unit"] if victim else "HU", self.norm()
        for row, unit in enumerate(limits.UNITS):
            self.ui.epsUnitComboBox.setItemText(row, limits.title(unit, own))
        unit = self.unit() if self.parameters else "native"
        self.ui.epsUnitComboBox.currentIndex = limits.UNITS.index(unit)
        step = limits.step(unit, own)
        self.ui.epsSlider.decimals, self.ui.epsSlider.singleStep = (0, 1.0) if step == 1 else (1, step)
        self.ui.epsSlider.minimum, self.ui.epsSlider.maximum = limits.span(unit, own, norm)
        self.ui.epsSlider.suffix = limits.suffix(unit, own, norm)
        sigma = self.module.sigma(self.parameters.inputVolume) if self.parameters else None
        note = limits.note(self.ui.epsSlider.value, norm, unit, own, sigma)
        self.ui.epsNoteLabel.text = OWN_BUDGET if self.ownBudget() else note

    def _progress(self, busy: bool) -> None:
        job, trace = self.session.job, self.session.trace
        trace = words.latest(trace) if job and words.several(job) else trace
        self.ui.progressBar.visible = busy
        self.ui.traceContainer.visible = busy and len(trace) > 1
        self.ui.liveLabel.visible = busy
        if not busy:
            self._drawn = 0
            self.live.clear()
            return
        steps, step = (job["progress"]["steps"], job["progress"]["step"]) if job else (None, None)
        self.ui.progressBar.maximum = steps or 0
        self.ui.progressBar.value = min(step or 0, steps or 0)
        self.ui.progressBar.format = self._doing(job)
        lost = _("Connection lost. The attack is still running on the server; waiting…")
        said = words.live(trace, DICE_LIMIT) if job and job["kind"] == "attack" else ""
        if said and words.several(job) and job["progress"].get("phase"):
            said = f"{job['progress']['phase']}. {said}"
        self.ui.liveLabel.text = lost if self.session.state == session.RECONNECTING else said or self._doing(job)
        if len(trace) != self._drawn and len(trace) > 1:
            self._drawn = len(trace)
            self.live.show(trace)

    def _doing(self, job) -> str:
        if self.session.state == session.IMPORTING:
            return _("bringing the result into the scene")
        if job is None:
            return _("sending the scan")
        return _("fetching the result") if job["finished"] else words.progress(job)


OWN_BUDGET = _("This method has a budget of its own, under Advanced; don't compare it with others at a limit.")
TIPS = {
    "segment": _("Let the model segment the scan as it is; also measures the scan's noise"),
    "attack": _("Search for a change that makes the model wrong (Ctrl+Enter)"),
    "certify": _("Prove by about a hundred noisy copies of the scan which voxels no small change can alter"),
}
