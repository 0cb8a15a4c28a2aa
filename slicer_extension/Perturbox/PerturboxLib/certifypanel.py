"""The row "Certify" of section 3: which noise, which answers, and what stands in the way."""

from slicer.i18n import tr as _

from . import limits

KIND = "certify"


class Certify:
    """module: the PerturboxWidget. Hidden where the server certifies nothing, being older."""

    def __init__(self, module):
        self.module, self.ui, self.session = module, module.ui, module.session
        self.ui.certifyButton.connect("clicked(bool)", lambda _: module.attack.begin(KIND))

    @property
    def parameters(self):
        return self.module.parameters

    def obstacle(self) -> str:
        """What is missing beside what every job needs, in words; empty if nothing is."""
        if self.module.input.defence.name:
            return _("A certificate is for the model without a defence; choose none")
        return ""

    def request(self) -> dict:
        """What the job says beside its kind and its model."""
        return {"sigma": float(self.parameters.sigma), "adaptive": bool(self.parameters.adaptive)}

    def update(self) -> None:
        """Show the noise in the unit that the model's scans have."""
        schema, victim = self.session.schema, self.module.input.victim
        self.ui.certifyGroupBox.visible = KIND in (schema or {}).get("kinds", [KIND])
        own = victim["unit"] if victim else "HU"
        slider = self.ui.sigmaSlider
        slider.minimum, slider.maximum = (1.0, 100.0) if own == "HU" else limits.span("native", own, "linf")
        slider.suffix = f" {limits.plain(own)}"
        for widget in (slider, self.ui.adaptiveCheckBox):
            widget.enabled = not self.session.busy
