"""Tables, the chart of slices with its cursor and clicks, the live trace."""

import bundles
import numpy as np
import pytest
import slicer
from PerturboxLib import charts, layouts
from PerturboxLib import scene as results_scene
from PerturboxLib.views import Viewer


@pytest.fixture
def nodes(scene):
    node, _, _ = bundles.add()
    return results_scene.Nodes(node)


def column(table_node, name) -> list:
    found = table_node.GetTable().GetColumnByName(name)
    return [found.GetValue(row) for row in range(found.GetNumberOfTuples())]


def names(table_node) -> list[str]:
    return [table_node.GetTable().GetColumnName(n) for n in range(table_node.GetTable().GetNumberOfColumns())]


def series_of(chart) -> dict:
    """The series of a chart by what they draw."""
    return {
        chart.GetNthPlotSeriesNode(n).GetYColumnName(): chart.GetNthPlotSeriesNode(n)
        for n in range(chart.GetNumberOfPlotSeriesNodes())
    }


def test_the_slice_table_holds_dice_and_millilitres_with_gaps(nodes):
    clean, after = bundles.maps()
    table, ml = nodes.slices, 0.012
    assert names(table)[:3] == ["Slice", "Differs", "Differs, as drawn"]
    assert column(table, "Slice") == list(range(1, 11))
    assert np.allclose(column(table, "Differs"), (clean != after).sum((1, 2)) * ml)
    assert max(column(table, "Differs, as drawn")) == 0.5
    expected = [bundles.dice(clean[k] == 2, after[k] == 2) for k in range(10)]
    assert np.allclose(column(table, "spleen"), [np.nan if d is None else d for d in expected], equal_nan=True)
    assert np.isnan(column(table, "spleen")[:3]).all()
    assert np.allclose(column(table, "spleen lost"), ((clean == 2) & (after != 2)).sum((1, 2)) * ml)
    assert np.allclose(column(table, "liver added"), ((clean != 1) & (after == 1)).sum((1, 2)) * ml)
    assert table.GetColumnUnitLabel("Differs") == "ml" and table.GetColumnUnitLabel("spleen lost") == "ml"


def test_the_structure_table_holds_the_rows(nodes):
    rows = nodes.result.rows(absent=True)
    assert column(nodes.structures, "Structure") == ["Kidney left", "Spleen", "Liver", "Aorta"]
    assert np.allclose(column(nodes.structures, "Lost"), [row.lostMl for row in rows])
    assert np.isnan(column(nodes.structures, "Dice")[3]) and column(nodes.structures, "Dice")[0] == 0
    assert column(nodes.structures, "Verdict") == ["✕ vanished", "▼ Dice", "▲ far", "– absent"]
    assert nodes.structures.GetColumnUnitLabel("HD95") == "mm"


def test_the_chart_draws_what_is_there_in_colour_and_line_style(nodes):
    chart, found = nodes.chart, series_of(nodes.chart)
    assert list(found) == ["Differs, as drawn", "liver", "spleen", "kidney_left", "Height"]  # no aorta
    assert [found[s].GetName() for s in ("liver", "spleen", "kidney_left")] == ["Liver", "Spleen", "Kidney left"]
    styles = [found[s].GetLineStyle() for s in ("liver", "spleen", "kidney_left")]
    kind = slicer.vtkMRMLPlotSeriesNode
    assert styles == [kind.LineStyleSolid, kind.LineStyleDash, kind.LineStyleDot]
    assert len({tuple(found[s].GetColor()) for s in found}) == 5
    assert found["Differs, as drawn"].GetPlotType() == kind.PlotTypeScatterBar
    assert all(
        found[s].GetPlotType() == kind.PlotTypeScatter and found[s].GetXColumnName() == "Slice" for s in list(found)[1:]
    )
    assert found["Differs, as drawn"].GetName() == f"differs (tallest {nodes.result.differing().max():.1f} ml)"
    assert not chart.GetYAxisRangeAuto() and not chart.GetXAxisRangeAuto()
    for (low, high), first, last in ((chart.GetYAxisRange(), 0, 1), (chart.GetXAxisRange(), 1, 10)):
        assert low < first and last < high  # a point on the frame can't be clicked
    assert not chart.GetEnablePointMoveAlongX() and not chart.GetEnablePointMoveAlongY()
    assert chart.GetXAxisTitle().startswith("axial slice")


def test_the_trace_is_one_line_per_target_with_the_limit(nodes):
    found = series_of(nodes.traceChart)
    assert list(found) == ["Limit", "liver", "spleen", "kidney_left"]  # the aorta has no value
    assert found["Limit"].GetLineStyle() == slicer.vtkMRMLPlotSeriesNode.LineStyleDash
    assert set(column(nodes.trace, "Limit")) == {0.9} and found["Limit"].GetName() == "limit 0.90"
    assert np.allclose(column(nodes.trace, "spleen"), [1, 0.9, 0.8, 0.7])
    assert found["spleen"].GetColor() == series_of(nodes.chart)["spleen"].GetColor()  # one colour, one structure


def test_a_new_start_is_a_gap_in_the_trace(scene):
    trace = [{"step": s, "restart": r, "dice": {"liver": 1 - 0.1 * s}} for r in range(2) for s in range(3)]
    table = charts.traceTable(trace, ["liver"], "trace")
    assert column(table, "Look") == [0, 1, 2, 2, 3, 4, 5]
    assert np.allclose(column(table, "liver"), [1, 0.9, 0.8, np.nan, 1, 0.9, 0.8], equal_nan=True)


def test_the_cursor_stands_at_the_slice_that_is_shown(nodes):
    charts.setCursor(nodes.cursor, 6)
    assert column(nodes.cursor, "Slice") == [7, 7] and column(nodes.cursor, "Height") == [0, 1]


def test_clicking_a_point_jumps_to_its_slice(nodes, slicer_app, rendering):
    viewer = Viewer(slicer_app.layoutManager())
    viewer.show(nodes.node, "compare")
    view = layouts.plotView(slicer_app.layoutManager())
    found = series_of(nodes.chart)
    for series, row in ((found["spleen"], 5), (found["liver"], 2), (found["spleen"], 8)):
        view.click_point(series, row)
        assert viewer.index() == row, series.GetName()
    viewer.jump(0)
    view.click_point(found["Height"], 1)  # the cursor is no slice
    assert viewer.index() == 0
    viewer.leave()
    view.setMRMLPlotViewNode(view.mrmlPlotViewNode())


def test_after_leaving_clicks_do_nothing(nodes, slicer_app, rendering):
    viewer = Viewer(slicer_app.layoutManager())
    viewer.show(nodes.node, "compare")
    view, jumped = layouts.plotView(slicer_app.layoutManager()), []
    clicks = charts.Clicks(view, nodes.slices, jumped.append)
    view.click_point(series_of(nodes.chart)["liver"], 3)
    assert jumped == [3]
    clicks.stop()
    view.click_point(series_of(nodes.chart)["liver"], 4)
    assert jumped == [3] and viewer.index() == 4
    viewer.leave()


def test_the_live_trace_grows_and_leaves_nothing(scene, slicer_app):
    before = slicer.mrmlScene.GetNumberOfNodes()
    live = charts.LiveTrace(slicer.qMRMLPlotView(), 0.9)
    trace = [{"step": s, "restart": 0, "dice": {"liver": 1 - 0.1 * s, "bone": None}} for s in range(5)]
    for length in (2, 3, 5):
        live.show(trace[:length])
        table, chart = live.nodes[:2]
        assert np.allclose(column(table, "liver"), [1 - 0.1 * s for s in range(length)])
        assert list(series_of(chart)) == ["Limit", "liver"] and chart.GetXAxisRange()[1] >= length - 1
    count = slicer.mrmlScene.GetNumberOfNodes()
    live.show(trace)
    assert slicer.mrmlScene.GetNumberOfNodes() == count
    assert all(node.GetHideFromEditors() and not node.GetSaveWithScene() for node in live.nodes)
    assert live.plotView.mrmlPlotViewNode().GetPlotChartNodeID() == chart.GetID()
    live.show([{"step": 0, "restart": 0, "dice": {"bone": 0.5}}] * 2)  # another attack
    assert list(series_of(live.nodes[1])) == ["Limit", "bone"]
    live.clear()
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_the_live_trace_survives_a_closed_scene(scene, slicer_app):
    live = charts.LiveTrace(slicer.qMRMLPlotView(), 0.9)
    trace = [{"step": s, "restart": 0, "dice": {"liver": 1 - 0.1 * s}} for s in range(3)]
    live.show(trace)
    slicer.mrmlScene.Clear(0)
    live.show(trace)
    assert np.allclose(column(live.nodes[0], "liver"), [1, 0.9, 0.8])
    live.clear()
