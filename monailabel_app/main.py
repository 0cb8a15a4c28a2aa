"""Perturbox as a MONAI Label app: victims and attacks as tasks for every client, and a job API for its own."""

import os
import sqlite3
import sys

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp

import perturbox
from lib import (
    activelearning,
    api,
    backend,
    dicomweb,
    guard,
    infers,
    lifecycle,
    private,
    scoring,
    tasks,
    terminal,
    trainers,
    victims,
)
from lib.guard import store
from lib.options import Options, refuse, unusable
from perturbox.jobs import Queue
from perturbox.types import ADVERSARIAL_NOTICE, InputError


class Perturbox(MONAILabelApp):
    """The app of the server process, and of the processes that MONAI Label starts for batch, scoring and training."""

    def __init__(self, app_dir, studies, conf):
        server = sys.modules.get("monailabel.app")  # only the server process has it
        os.umask(0o077)  # what is kept here are patients' scans
        guard.logs.install()  # before MONAI Label names every image it finds
        private.take(os.environ)
        terminal.take(os.environ)
        self.options = Options.read(conf or {}, {**os.environ, **private.kept()}, sys.argv)
        # Scoring is an attack on every image: started on request, never at each start.
        settings.MONAI_LABEL_AUTO_UPDATE_SCORING = False
        settings.MONAI_LABEL_SESSION_PATH = settings.MONAI_LABEL_SESSION_PATH or str(self.options.home / "sessions")
        try:
            if server is not None:
                self.options.check_token()
                self.options.check_host(auth=settings.MONAI_LABEL_AUTH_ENABLE)
            backend.victims, backend.device = victims.load(self.options), self.options.device
            if server is not None and backend.queue is None:
                options = self.options
                backend.queue = Queue(options.home, scheduler=options.scheduler, device=options.device)
        except InputError as error:
            refuse(error)
        except (OSError, sqlite3.Error) as error:
            refuse(unusable(self.options.home, error))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Perturbox",
            description=f"How small a change of a scan makes a segmentation model wrong? {ADVERSARIAL_NOTICE}",
            version=perturbox.__version__,
        )
        if server is not None:
            self.options.tell_children()
            self.background = tasks.of_server(backend.queue)
            api.install(server.app, self, backend.queue)
            guard.install(
                server.app,
                self,
                token=self.options.token,
                upload_limit=self.options.upload_limit,
                cors=self.options.cors,
            )
            lifecycle.watch(self, backend.queue)

    @property
    def victims(self):
        """The served victims by name."""
        return backend.victims

    def reload(self):
        """Look again which victims there are, those fine-tuned since included. Raises InputError for a broken one."""
        found = victims.load(self.options)
        backend.victims.clear()
        backend.victims.update(found)  # the job API holds on to the same dictionary
        self._infers, self._trainers = self.init_infers(), self.init_trainers()
        self.datastore().refresh()

    def init_datastore(self):
        return store.open_folder(self.studies, self.options.home) or super().init_datastore()

    def batch_infer(self, request, datastore=None):
        return tasks.carry_out(super().batch_infer, request, datastore)

    def scoring(self, request, datastore=None):
        return tasks.carry_out(super().scoring, request, datastore)

    def train(self, request):
        return tasks.carry_out(super().train, request)

    def _init_dicomweb_datastore(self):
        # MONAI Label's own fetches a program (dcmqi) at the start, and doesn't start where it can't.
        return dicomweb.connect(self.studies, self.options.home)

    def init_infers(self):
        return infers.infers(self)

    def init_batch_infer(self):
        return infers.Batch()

    def init_scoring_methods(self):
        return scoring.methods()

    def init_strategies(self):
        return activelearning.strategies()

    def init_trainers(self):
        return trainers.trainers(self.options)
