"""One queue for long work: orders go in, result folders come out, on one machine or on a cluster.

`Queue` keeps a record of every order in SQLite, hands them one by one to Dask workers and watches over them: progress,
cancelling, workers that die, run out of memory or get stuck, a restart of the server, and results that grow too old.
"""

from perturbox.jobs.queue import Queue
from perturbox.jobs.records import KINDS, MOST_COPIED, STATES, Order, Problem, Record, Refused

__all__ = ["KINDS", "MOST_COPIED", "STATES", "Order", "Problem", "Queue", "Record", "Refused"]
