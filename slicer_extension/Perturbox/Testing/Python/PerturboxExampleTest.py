"""What the module shows of its bundled example, without a server: the files, the nodes, the numbers."""

import json
import unittest

import numpy as np
import slicer
from PerturboxLib import example, geometry, nrrd, scene


class PerturboxExampleTest(unittest.TestCase):
    """Starts from an empty scene and leaves one."""

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def tearDown(self):
        slicer.mrmlScene.Clear(0)

    def image(self, name):
        return nrrd.decode((example.FOLDER / f"{name}.nrrd").read_bytes())

    def record(self):
        return json.loads((example.FOLDER / "result.json").read_text(encoding="utf-8"))

    def test_the_scan_changed_by_no_more_than_its_budget(self):
        source, perturbed, change = (self.image(name) for name in ("source", "perturbed", "perturbation"))
        difference = perturbed.array.astype(np.int64) - source.array
        np.testing.assert_array_equal(difference, change.array)
        budget = self.record()["budget"]
        self.assertEqual(int(abs(difference).max()), budget["measured"]["linf"])
        self.assertLessEqual(budget["measured"]["linf"], budget["eps"])

    def test_all_images_lie_on_one_grid(self):
        source = self.image("source")
        for name in example.IMAGES:
            image = self.image(name)
            self.assertTrue(
                geometry.sameGrid(source.array.shape, source.ijkToRas, image.array.shape, image.ijkToRas), name
            )

    def test_the_nodes_hold_what_the_files_hold(self):
        nodes = scene.Nodes(example.load())
        for role, name in (("original", "source"), ("perturbed", "perturbed"), ("perturbation", "perturbation")):
            volume, image = getattr(nodes, role), self.image(name)
            np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), image.array)
            np.testing.assert_allclose(geometry.worldGrid(volume), image.ijkToRas, atol=1e-9)

    def test_every_segment_has_the_voxels_of_its_label(self):
        nodes = scene.Nodes(example.load())
        labels = {value: name for name, value in self.record()["victim"]["labels"].items()}
        for role in ("clean", "adversarial"):
            node, image = getattr(nodes, role), self.image(role)
            segmentation = node.GetSegmentation()
            counts = {}
            for segmentId in segmentation.GetSegmentIDs():
                name = segmentation.GetSegment(segmentId).GetName().lower()
                mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentId, nodes.original)
                counts[name] = int((mask > 0).sum())
            values, found = np.unique(image.array[image.array > 0], return_counts=True)
            expected = {labels[int(value)]: int(count) for value, count in zip(values, found, strict=True)}
            self.assertEqual({name: count for name, count in counts.items() if count}, expected)

    def test_the_table_starts_with_what_broke(self):
        rows = scene.Nodes(example.load()).result.rows()
        broken = [row.broken for row in rows]
        self.assertEqual(broken, sorted(broken, reverse=True))
        self.assertIn(True, broken)
        self.assertIn(False, broken)

    def test_removing_leaves_the_scan_alone(self):
        node = example.load()
        original = scene.Nodes(node).original
        scene.remove(node)
        self.assertEqual(scene.results(), [])
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        self.assertEqual([volume.GetID() for volume in volumes], [original.GetID()])
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(original), self.image("source").array)
