"""Values as plain JSON."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np


def to_json(x: object) -> object:
    """The same value in plain JSON types: numpy, tuples and dataclasses converted, NaN and infinity None.

    Raises TypeError for anything that has no JSON form.
    """
    if isinstance(x, np.generic | np.ndarray):
        x = x.tolist()
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        x = {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
    if x is None or isinstance(x, bool | int | str):
        return x
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    if isinstance(x, Mapping):
        return {str(key): to_json(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [to_json(value) for value in x]
    raise TypeError(f"{type(x).__name__} has no JSON form")
