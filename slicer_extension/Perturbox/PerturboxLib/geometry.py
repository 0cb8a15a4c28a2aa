"""Where a scan's voxels lie. Arrays are numpy's k j i, affines IJK -> RAS in mm; `arrayAxis` is the one conversion."""

import numpy as np

from .trouble import trouble

SHEAR = 1e-3  # cosine between two axes of a grid that still counts as a right angle
OBLIQUE = 1e-4  # sine between an axis and the body's, above which a grid is called oblique


def arrayAxis(ijkAxis: int) -> int:
    """The axis of a k j i array that runs along i (0), j (1) or k (2); its own inverse."""
    return 2 - ijkAxis


def ijkShape(arrayShape) -> tuple[int, int, int]:
    """(ni, nj, nk) of a k j i array's shape."""
    return tuple(int(arrayShape[arrayAxis(axis)]) for axis in range(3))


def worldGrid(volumeNode) -> np.ndarray:
    """The 4x4 affine IJK -> world RAS of a volume node, a linear parent transform included.

    Raises Trouble where the volume has no voxels, its slices are unevenly spaced, its transform isn't linear, or the
    grid is sheared or has no size.
    """
    import vtk

    if volumeNode.GetImageData() is None or min(volumeNode.GetImageData().GetDimensions()) < 1:
        raise trouble("no-voxels")
    affine = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(affine)
    parent = volumeNode.GetParentTransformNode()
    if parent is not None:
        if not parent.IsTransformToWorldLinear():
            raise trouble("uneven-slices" if _isAcquisitionTransform(parent) else "non-linear", parent.GetName() or "")
        toWorld = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(toWorld)
        vtk.vtkMatrix4x4.Multiply4x4(toWorld, affine, affine)
    grid = asArray(affine)
    _requireBoxes(grid)
    return grid


def asArray(matrix) -> np.ndarray:
    """A vtkMatrix4x4 as a 4x4 array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def asMatrix(affine: np.ndarray):
    """A 4x4 array as a vtkMatrix4x4."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(affine[row, column]))
    return matrix


def _isAcquisitionTransform(transformNode) -> bool:
    """Whether this, or a transform above it, is the one that Slicer's DICOM reader makes for uneven slices."""
    while transformNode is not None:
        if transformNode.IsA("vtkMRMLGridTransformNode") and "acquisition transform" in (transformNode.GetName() or ""):
            return True
        transformNode = transformNode.GetParentTransformNode()
    return False


def _requireBoxes(affine: np.ndarray) -> None:
    """Raises Trouble unless the grid's three axes have a length and stand at right angles."""
    lengths = spacing(affine)
    if not np.isfinite(affine).all() or min(lengths) < 1e-9:
        raise trouble("no-size", f"spacing {lengths}")
    directions = affine[:3, :3] / lengths
    cosines = np.abs(directions.T @ directions - np.eye(3)).max()
    if cosines > SHEAR:
        raise trouble("sheared", f"axes are {np.degrees(np.arcsin(min(1.0, cosines))):.2g}° off a right angle")


def spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Size of a voxel along i, j, k in mm."""
    return tuple(float(length) for length in np.linalg.norm(np.asarray(affine)[:3, :3], axis=0))


def orientation(affine: np.ndarray) -> str:
    """Where i, j and k run, e.g. "LPS"; "LPS, oblique" where they do so only nearly."""
    directions = np.asarray(affine, float)[:3, :3] / spacing(affine)
    letters, left = [""] * 3, np.abs(directions)
    for _ in range(3):  # the surest axis first, so that no letter comes twice
        row, column = np.unravel_index(np.argmax(left), (3, 3))
        letters[column] = ("LR", "PA", "IS")[row][int(directions[row, column] > 0)]
        left[row, :] = left[:, column] = -1
    straight = np.sort(np.abs(directions), axis=0)[:2].max() <= OBLIQUE
    return "".join(letters) + ("" if straight else ", oblique")


def corners(arrayShape, affine: np.ndarray) -> np.ndarray:
    """RAS of the centres of the eight corner voxels of a k j i array, "8 3", in mm."""
    ends = np.array(np.meshgrid(*((0, n - 1) for n in ijkShape(arrayShape)), indexing="ij")).reshape(3, 8)
    return (np.asarray(affine) @ np.vstack([ends, np.ones(8)]))[:3].T


def sameGrid(shapeA, affineA, shapeB, affineB, tolerance: float = 1e-3) -> bool:
    """Whether two k j i arrays have the same shape and their corner voxels coincide within `tolerance` mm."""
    if tuple(shapeA) != tuple(shapeB):
        return False
    apart = np.linalg.norm(corners(shapeA, affineA) - corners(shapeB, affineB), axis=1)
    return bool(np.isfinite(apart).all() and apart.max() <= tolerance)
