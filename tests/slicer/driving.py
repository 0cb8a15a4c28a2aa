"""Drives the panel as a user would: types, chooses, clicks and waits."""

from PerturboxLib import session


class Driver:
    """A loaded Perturbox panel and `wait_until`, which pumps the event loop."""

    def __init__(self, widget, wait_until):
        self.widget, self.ui, self.wait = widget, widget.ui, wait_until

    @property
    def session(self):
        return self.widget.session

    @property
    def parameters(self):
        return self.widget.parameters

    def connect(self, server, seconds: float = 60) -> None:
        self.begin_to_connect(server.url, server.token)
        self.wait(lambda: self.session.connected or self.trouble, seconds, "connected")
        assert not self.trouble, self.trouble

    def begin_to_connect(self, address: str, token: str = "") -> None:
        self.ui.serverComboBox.setEditText(address)
        self.ui.tokenLineEdit.text = token
        self.ui.connectButton.click()

    def choose(self, volume) -> None:
        self.ui.inputVolumeSelector.setCurrentNode(volume)

    def set_form(self, **values) -> None:
        """Edit fields of the generated form."""
        for name, value in values.items():
            self.widget.attack.form.fields[name].write(value)
        self.widget.attack.onForm()

    def attack(self, seconds: float = 120):
        """Click Attack and wait for the result node."""
        before = self.parameters.result
        self.ui.attackButton.click()
        assert self.session.busy, self.ui.attackButton.toolTip or self.trouble
        self.wait_for_end(seconds)
        assert not self.trouble, self.trouble
        assert self.parameters.result is not before
        return self.parameters.result

    def wait_for_end(self, seconds: float = 120) -> None:
        self.wait(lambda: self.session.state in (session.READY, session.DISCONNECTED), seconds, "the end of the job")

    @property
    def trouble(self) -> str:
        """The sentence that is shown; empty if none is."""
        return self.ui.troubleLabel.text if not self.ui.troubleFrame.isHidden() else ""
