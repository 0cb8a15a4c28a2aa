"""What PythonQt shows of Slicer's and CTK's widgets: properties, slots, signals and what is marked invokable.

Read from the public headers of Slicer (583e9b37d5) and CTK (868d56c7) in August 2026. What C++ has beside these Python
can't call: `setCollapsed`, the setter of a property, is such a method, so a module writes `collapsed = True`.
"""

import functools
import sys
from collections.abc import Callable

# Class: its base, its header, what it adds.
CLASSES = {
    "ctkCheckBox": (
        "QCheckBox",
        "Libs/Widgets/ctkCheckBox.h",
        "indicatorIcon indicatorIconSize",
    ),
    "ctkCheckableComboBox": (
        "QComboBox",
        "Libs/Widgets/ctkCheckableComboBox.h",
        "allChecked allPatiallyChecked checkState checkableModel checkableModelHelper checkedIndexes "
        "checkedIndexesChanged noneChecked returnRelease setCheckState setCheckableModel",
    ),
    "ctkCollapsibleButton": (
        "QAbstractButton",
        "Libs/Widgets/ctkCollapsibleButton.h",
        "buttonTextAlignment collapsed collapsedHeight contentsCollapsed contentsFrameShadow contentsFrameShape "
        "contentsLineWidth contentsMidLineWidth flat indicatorAlignment",
    ),
    "ctkCollapsibleGroupBox": (
        "QGroupBox",
        "Libs/Widgets/ctkCollapsibleGroupBox.h",
        "collapsed collapsedHeight",
    ),
    "ctkComboBox": (
        "QComboBox",
        "Libs/Widgets/ctkComboBox.h",
        "currentUserDataAsString defaultIcon defaultText elideMode forceDefault returnRelease scrollWheelEffect "
        "setCurrentUserDataAsString",
    ),
    "ctkDoubleSpinBox": (
        "QWidget",
        "Libs/Widgets/ctkDoubleSpinBox.h",
        "alignment cleanText decimals decimalsChanged decimalsOption editingFinished frame invertedControls "
        "isSettingValue maximum minimum prefix readOnly setDecimals setMode setReadOnly setValue setValueAlways "
        "setValueIfDifferent singleStep sizeHintPolicy stepDown stepUp suffix value valueChanged",
    ),
    "ctkMessageBox": (
        "QMessageBox",
        "Libs/Widgets/ctkMessageBox.h",
        "addDontShowAgainButtonRole dontShowAgain dontShowAgainButtonRoles dontShowAgainSettingsKey "
        "dontShowAgainVisible onFinished setDontShowAgain",
    ),
    "ctkPathLineEdit": (
        "QWidget",
        "Libs/Widgets/ctkPathLineEdit.h",
        "addCurrentPathToHistory browse comboBox currentPath currentPathChanged filters label "
        "minimumContentsLength nameFilters options retrieveHistory setCurrentPath settingKey showBrowseButton "
        "showHistoryButton sizeAdjustPolicy validInputChanged",
    ),
    "ctkSliderWidget": (
        "QWidget",
        "Libs/Widgets/ctkSliderWidget.h",
        "decimals decimalsChanged invertedAppearance invertedControls maximum minimum pageStep popupSlider prefix "
        "reset setDecimals setSpinBoxVisible setValue singleStep spinBoxAlignment spinBoxVisible suffix "
        "synchronizeSiblings tickInterval tickPosition tracking value valueChanged valueIsChanging",
    ),
    "qMRMLNodeComboBox": (
        "QWidget",
        "Libs/MRML/Widgets/qMRMLNodeComboBox.h",
        "addAttribute addEnabled addMenuAction addNode baseName currentNode currentNodeChanged currentNodeID "
        "currentNodeIDChanged currentNodeId currentNodeRenamed editCurrentNode editEnabled hideChildNodeTypes "
        "interactionNodeSingletonTag mrmlScene nodeAboutToBeEdited nodeAboutToBeRemoved nodeActivated nodeAdded "
        "nodeAddedByUser nodeAddedByUserAction nodeCount nodeFromIndex nodeTypeLabel nodeTypes noneDisplay "
        "noneEnabled removeAttribute removeCurrentNode removeEnabled renameCurrentNode renameEnabled "
        "selectNodeUponCreation setCurrentNode setCurrentNodeID setCurrentNodeIndex setMRMLScene setNodeTypeLabel "
        "showChildNodeTypes showHidden sizeAdjustPolicy sortFilterProxyModel",
    ),
    "ctkVTKOpenGLNativeWidget": (
        "QVTKOpenGLNativeWidget",
        "Libs/Visualization/VTK/Widgets/ctkVTKOpenGLNativeWidget.h",
        "",
    ),
    "ctkVTKChartView": (
        "ctkVTKOpenGLNativeWidget",
        "Libs/Visualization/VTK/Widgets/ctkVTKChartView.h",
        "addPlot boundAxesToChartBounds boundsChanged chart chartBounds chartExtent chartUserBounds extentChanged "
        "plotAdded plotIndex plotRemoved removeAllPlots removePlot renderWindow scene setAxesToChartBounds "
        "setChartUserBounds title",
    ),
    "qMRMLPlotView": (
        "ctkVTKChartView",
        "Libs/MRML/Widgets/qMRMLPlotView.h",
        "RemovePlotSelections dataSelected fitToContent mrmlSceneChanged saveAsSVG setMRMLPlotViewNode setMRMLScene",
    ),
    "qMRMLWidget": (
        "QWidget",
        "Libs/MRML/Widgets/qMRMLWidget.h",
        "mrmlScene mrmlSceneChanged pixmapFromIcon postInitializeApplication preInitializeApplication setMRMLScene",
    ),
    "qMRMLAbstractViewWidget": (
        "qMRMLWidget",
        "Libs/MRML/Widgets/qMRMLAbstractViewWidget.h",
        "controllerWidget logic mrmlAbstractViewNode pauseRender resumeRender setMRMLAbstractViewNode "
        "setRenderPaused setViewColor setViewLabel viewColor viewLabel viewWidget",
    ),
    "qMRMLPlotWidget": (
        "qMRMLAbstractViewWidget",
        "Libs/MRML/Widgets/qMRMLPlotWidget.h",
        "controllerWidget mrmlAbstractViewNode mrmlPlotViewNode plotController plotView setMRMLAbstractViewNode "
        "setMRMLPlotViewNode viewWidget",
    ),
    "qMRMLSegmentSelectorWidget": (
        "qMRMLWidget",
        "Libs/MRML/Widgets/qMRMLSegmentSelectorWidget.h",
        "currentNode currentNodeChanged currentNodeID currentSegmentChanged currentSegmentID editEnabled "
        "horizontalLayout multiSelection nodeAboutToBeEdited noneEnabled segmentIDs segmentSelectionChanged "
        "segmentationNodeSelectorVisible selectNodeUponCreation selectedSegmentIDs setCurrentNode "
        "setCurrentNodeID setCurrentSegmentID setSelectedSegmentIDs",
    ),
    "ctkVTKAbstractView": (
        "QWidget",
        "Libs/Visualization/VTK/Widgets/ctkVTKAbstractView.h",
        "VTKWidget backgroundColor backgroundColor2 cornerAnnotation cornerAnnotationText forceRender fpsVisible "
        "gradientBackground interactor interactorStyle maximumUpdateRate pauseRender renderEnabled renderWindow "
        "resumeRender scheduleRender setBackgroundColor setBackgroundColor2 setCornerAnnotationText setFPSVisible "
        "setGradientBackground setMaximumUpdateRate setRenderEnabled setRenderPaused setUseDepthPeeling "
        "useDepthPeeling",
    ),
    "ctkVTKSliceView": (
        "ctkVTKAbstractView",
        "Libs/Visualization/VTK/Widgets/ctkVTKSliceView.h",
        "colorLevel colorWindow highlightedBoxColor lightBoxRendererManager renderWindowLayoutType resetCamera "
        "resized setColorLevel setColorWindow setHighlightedBoxColor setImageDataConnection "
        "setLightBoxRendererManagerColumnCount setLightBoxRendererManagerRowCount setRenderWindowLayoutType",
    ),
    "qMRMLSliceView": (
        "ctkVTKSliceView",
        "Libs/MRML/Widgets/qMRMLSliceView.h",
        "addDisplayableManager convertDeviceToXYZ convertRASToXYZ convertXYZToRAS displayableManagerByClassName "
        "getDisplayableManagers interactorObserver mrmlSliceNode setDefaultViewCursor setMRMLScene "
        "setMRMLSliceNode setViewCursor sliceViewInteractorStyle unsetViewCursor",
    ),
    "qMRMLSliceWidget": (
        "qMRMLAbstractViewWidget",
        "Libs/MRML/Widgets/qMRMLSliceWidget.h",
        "controllerWidget fitSliceToBackground imageDataConnection interactorStyle logic mrmlAbstractViewNode "
        "mrmlSliceCompositeNode mrmlSliceNode nodeAboutToBeEdited overlayCornerAnnotation setImageDataConnection "
        "setMRMLAbstractViewNode setMRMLScene setMRMLSliceNode setSliceLogics setSliceOffsetSliderOrientation "
        "setSliceOrientation sliceController sliceLogic sliceOffsetSliderOrientation sliceOrientation "
        "sliceVerticalController sliceView sliceViewColor sliceViewLabel sliceViewName viewWidget",
    ),
    "qMRMLSortFilterProxyModel": (
        "QSortFilterProxyModel",
        "Libs/MRML/Widgets/qMRMLSortFilterProxyModel.h",
        "addAttribute attributeFilter filterType hiddenNodeIDs hideAll hideChildNodeTypes "
        "hideNodesUnaffiliatedWithNodeID indexFromMRMLNode mrmlNodeFromIndex mrmlSceneIndex nodeTypes "
        "removeAttribute sceneModel setFilterType setHideAll setShowAll setShowHidden showAll showChildNodeTypes "
        "showHidden showHiddenForTypes visibleNodeIDs",
    ),
    "qMRMLTableView": (
        "QTableView",
        "Libs/MRML/Widgets/qMRMLTableView.h",
        "copySelection deleteColumn deleteRow firstColumnLocked firstRowLocked insertColumn insertRow mrmlScene "
        "mrmlSceneChanged mrmlTableNode mrmlTableViewNode pasteSelection plotSelection selectionChanged "
        "setFirstColumnLocked setFirstRowLocked setMRMLScene setMRMLTableNode setMRMLTableViewNode setTransposed "
        "sortFilterProxyModel tableModel transposed",
    ),
    "qMRMLTableWidget": (
        "qMRMLAbstractViewWidget",
        "Libs/MRML/Widgets/qMRMLTableWidget.h",
        "controllerWidget mrmlAbstractViewNode mrmlTableViewNode setMRMLAbstractViewNode setMRMLTableViewNode "
        "tableController tableView viewWidget",
    ),
    "ctkVTKRenderView": (
        "ctkVTKAbstractView",
        "Libs/Visualization/VTK/Widgets/ctkVTKRenderView.h",
        "animationIntervalMs lookFromAxis orientationWidgetVisible pitch pitchDirection pitchRollYawIncrement "
        "resetFocalPoint rockEnabled rockLength roll rollDirection setAnimationIntervalMs setFocalPoint "
        "setOrientationWidgetVisible setPitchRollYawIncrement setRockEnabled setRockIncrement setRockLength "
        "setSpinEnabled setSpinIncrement setZoomFactor spinDirection spinEnabled spinIncrement yaw yawDirection "
        "zoomFactor zoomIn zoomOut",
    ),
    "qMRMLThreeDView": (
        "ctkVTKRenderView",
        "Libs/MRML/Widgets/qMRMLThreeDView.h",
        "ambientShadowsIntensityScale ambientShadowsIntensityShift ambientShadowsSizeScale "
        "ambientShadowsVolumeOpacityThreshold cameraNode displayableManagerByClassName getDisplayableManagers "
        "interactorObserver lookFromViewAxis mrmlViewNode resetCamera resetFocalPoint rotateToViewAxis "
        "setAmbientShadowsIntensityScale setAmbientShadowsIntensityShift setAmbientShadowsSizeScale "
        "setAmbientShadowsVolumeOpacityThreshold setDefaultViewCursor setMRMLScene setMRMLViewNode "
        "setShadowsVisibility setViewCursor shadowsVisibility ssaoPass unsetViewCursor",
    ),
    "qMRMLThreeDWidget": (
        "qMRMLAbstractViewWidget",
        "Libs/MRML/Widgets/qMRMLThreeDWidget.h",
        "addDisplayableManager controllerWidget getDisplayableManagers logic mrmlAbstractViewNode mrmlViewNode "
        "setMRMLAbstractViewNode setMRMLViewNode setQuadBufferStereoSupportEnabled threeDController threeDView "
        "viewLogic viewWidget",
    ),
    "ctkLayoutManager": (
        "QObject",
        "Libs/Widgets/ctkLayoutManager.h",
        "isViewportUsedInLayout layoutChanged setViewport spacing viewport viewportNames",
    ),
    "ctkLayoutFactory": (
        "ctkLayoutManager",
        "Libs/Widgets/ctkLayoutFactory.h",
        "",
    ),
    "qMRMLLayoutManager": (
        "ctkLayoutFactory",
        "Libs/MRML/Widgets/qMRMLLayoutManager.h",
        "activeMRMLPlotViewNode activeMRMLPlotViewNodeChanged activeMRMLTableViewNode "
        "activeMRMLTableViewNodeChanged activeMRMLThreeDViewNode activeMRMLThreeDViewNodeChanged "
        "activePlotRenderer activePlotRendererChanged activeTableRenderer activeTableRendererChanged "
        "activeThreeDRenderer activeThreeDRendererChanged addMaximizedViewNode enabled layout layoutChanged "
        "layoutLogic mrmlColorLogic mrmlScene mrmlSliceLogics mrmlViewFactories mrmlViewFactory mrmlViewLogics "
        "nodeAboutToBeEdited pauseRender plotViewCount plotWidget registerViewFactory removeAllMaximizedViewNodes "
        "removeMaximizedViewNode resetSliceViews resetThreeDViews resumeRender setEnabled setLayout "
        "setLayoutNumberOfCompareViewColumns setLayoutNumberOfCompareViewRows setMRMLColorLogic setMRMLScene "
        "setRenderPaused sliceViewNames sliceWidget tableViewCount tableWidget threeDViewCount threeDWidget "
        "viewWidget viewWidgets",
    ),
    "qSlicerLayoutManager": (
        "qMRMLLayoutManager",
        "Base/QTGUI/qSlicerLayoutManager.h",
        "selectModule setScriptedDisplayableManagerDirectory",
    ),
    "qSlicerModuleManager": (
        "QObject",
        "Base/QTCore/qSlicerModuleManager.h",
        "factoryManager module moduleAboutToBeUnloaded moduleLoaded modulesNames",
    ),
}
MODULES = "slicer_extension"  # where the files lie that must not use more than the desktop has


@functools.cache
def names(kind: str) -> frozenset[str]:
    """What the class and its bases add to Qt's."""
    base, _, own = CLASSES[kind]
    return frozenset(own.split()) | (names(base) if base in CLASSES else frozenset())


def for_tests(method: Callable) -> Callable:
    """Marks what only tests may call: for a module under test there is no such method."""

    @functools.wraps(method)
    def call(self, *arguments, **keywords):
        if MODULES in sys._getframe(1).f_code.co_filename:
            raise AttributeError(f"{type(self).__name__} has no attribute named '{method.__name__}' in Slicer")
        return method(self, *arguments, **keywords)

    call.for_tests = True
    return call


def surplus(cls: type) -> set[str]:
    """Public names of a stand-in that the desktop's class doesn't show; empty for a class that isn't listed."""
    if cls.__name__ not in CLASSES:
        return set()
    of_qt = next(vars(base)["cpp"] for base in cls.__mro__ if "cpp" in vars(base))
    own = {}
    for base in reversed(cls.__mro__[: cls.__mro__.index(of_qt)]):
        own.update(vars(base))
    found = {name for name, value in own.items() if not (name.startswith("_") or hasattr(value, "for_tests"))}
    dialect = {"SIGNALS", "staticMetaObject", "cpp", "connect", "disconnect", "findChild", "findChildren"}
    return {name for name in found - names(cls.__name__) - dialect if not hasattr(of_qt, name)}
