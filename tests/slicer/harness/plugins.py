"""The classes a .ui file can name in Slicer: those with a designer plug-in, and Qt's own.

Read from the public sources of Slicer (583e9b37d5) and CTK (868d56c7) in August 2026: the classes whose plug-ins these
files register, by the file's path. For any other class Slicer's loader makes the class it is said to extend.
"""

from functools import cache

SLICER = {
    "Libs/MRML/Widgets/DesignerPlugins/qMRMLWidgetsPlugin.h": (
        "qMRMLCheckableNodeComboBox qMRMLClipNodeDisplayWidget qMRMLClipNodeWidget qMRMLCollapsibleButton "
        "qMRMLColorTableComboBox qMRMLCoordinatesWidget qMRMLDisplayNodeViewComboBox qMRMLDisplayNodeWidget "
        "qMRMLEventBrokerWidget qMRMLExpandingWebView qMRMLLabelComboBox qMRMLLayoutWidget "
        "qMRMLLinearTransformSlider qMRMLListWidget qMRMLMatrixWidget qMRMLModelInfoWidget "
        "qMRMLNavigationView qMRMLNodeAttributeTableView qMRMLNodeAttributeTableWidget qMRMLNodeComboBox "
        "qMRMLPlotViewControllerWidget qMRMLPlotWidget qMRMLROIWidget qMRMLRangeWidget "
        "qMRMLScalarInvariantComboBox qMRMLScalarsDisplayWidget qMRMLSceneFactoryWidget "
        "qMRMLSliceControllerWidget qMRMLSliceInformationWidget qMRMLSliceVerticalControllerWidget "
        "qMRMLSliceWidget qMRMLSliderWidget qMRMLSpinBox qMRMLTableView qMRMLThreeDView "
        "qMRMLThreeDViewInformationWidget qMRMLTransformSliders qMRMLTreeView qMRMLVolumeInfoWidget "
        "qMRMLVolumeThresholdWidget qMRMLWidget qMRMLWindowLevelWidget "
    ),
    "Base/QTGUI/DesignerPlugins/qSlicerQTGUIPlugins.h": (
        "qSlicerDirectoryListView qSlicerModulePanel qSlicerModulesListView qSlicerMouseModeToolBar qSlicerWidget "
    ),
    "Base/QTCLI/DesignerPlugins/qSlicerQTCLIPlugins.h": ("qSlicerCLIProgressBar "),
    "Modules/Loadable/Colors/Widgets/DesignerPlugins/qSlicerColorsModuleWidgetsPlugin.h": (
        "qMRMLColorLegendDisplayNodeWidget qMRMLColorListView qMRMLColorTableView "
    ),
    "Modules/Loadable/Markups/Widgets/DesignerPlugins/qSlicerMarkupsModuleWidgetsPlugin.h": (
        "qMRMLMarkupsDisplayNodeWidget qMRMLMarkupsFiducialProjectionPropertyWidget "
        "qMRMLMarkupsInteractionHandleWidget qMRMLMarkupsROIWidget qSlicerMarkupsPlaceWidget "
        "qSlicerSimpleMarkupsWidget "
    ),
    "Modules/Loadable/Models/Widgets/DesignerPlugins/qSlicerModelsWidgetsPlugin.h": ("qMRMLModelDisplayNodeWidget "),
    "Modules/Loadable/Plots/Widgets/DesignerPlugins/qSlicerPlotsModuleWidgetsPlugin.h": (
        "qMRMLPlotChartPropertiesWidget qMRMLPlotSeriesPropertiesWidget "
    ),
    "Modules/Loadable/Segmentations/Widgets/DesignerPlugins/qSlicerSegmentationsModuleWidgetsPlugin.h": (
        "qMRMLSegmentEditorWidget qMRMLSegmentSelectorWidget qMRMLSegmentationConversionParametersWidget "
        "qMRMLSegmentationDisplayNodeWidget qMRMLSegmentationFileExportWidget "
        "qMRMLSegmentationRepresentationsListView qMRMLSegmentationShow3DButton qMRMLSegmentsTableView "
    ),
    "Modules/Loadable/Sequences/Widgets/DesignerPlugins/qSlicerSequencesModuleWidgetsPlugin.h": (
        "qMRMLSequenceBrowserPlayWidget qMRMLSequenceBrowserSeekWidget qMRMLSequenceBrowserToolBar "
        "qMRMLSequenceEditWidget "
    ),
    "Modules/Loadable/SubjectHierarchy/Widgets/DesignerPlugins/qSlicerSubjectHierarchyModuleWidgetsPlugin.h": (
        "qMRMLSubjectHierarchyComboBox qMRMLSubjectHierarchyTreeView "
    ),
    "Modules/Loadable/Tables/Widgets/DesignerPlugins/qSlicerTablesModuleWidgetsPlugin.h": (
        "qSlicerTableColumnPropertiesWidget "
    ),
    "Modules/Loadable/Terminologies/Widgets/DesignerPlugins/qSlicerTerminologiesModuleWidgetsPlugin.h": (
        "qSlicerTerminologyNavigatorWidget "
    ),
    "Modules/Loadable/Texts/Widgets/DesignerPlugins/qSlicerTextsModuleWidgetsPlugin.h": ("qMRMLTextWidget "),
    "Modules/Loadable/Transforms/Widgets/DesignerPlugins/qSlicerTransformsModuleWidgetsPlugin.h": (
        "qMRMLTransformDisplayNodeWidget qMRMLTransformInfoWidget "
    ),
    "Modules/Loadable/Units/Widgets/DesignerPlugins/qSlicerUnitsModuleWidgetsPlugin.h": ("qMRMLUnitWidget "),
    "Modules/Loadable/VolumeRendering/Widgets/DesignerPlugins/qSlicerVolumeRenderingModuleWidgetsPlugin.h": (
        "qMRMLVolumePropertyNodeWidget qSlicerGPUMemoryComboBox qSlicerPresetComboBox "
        "qSlicerVolumeRenderingPresetComboBox "
    ),
    "Modules/Loadable/Volumes/Widgets/DesignerPlugins/qSlicerVolumesModuleWidgetsPlugin.h": (
        "qSlicerDTISliceDisplayWidget qSlicerDiffusionTensorVolumeDisplayWidget "
        "qSlicerDiffusionWeightedVolumeDisplayWidget qSlicerLabelMapVolumeDisplayWidget "
        "qSlicerScalarVolumeDisplayWidget qSlicerVolumeDisplayWidget "
    ),
    "Modules/Scripted/DICOMLib/Widgets/DesignerPlugins/qSlicerDICOMLibModuleWidgetsPlugin.h": (
        "qSlicerDICOMTagEditorWidget "
    ),
}
CTK = {
    "Libs/Widgets/Plugins/ctkWidgetsPlugins.h": (
        "ctkActionsWidget ctkAxesWidget ctkCheckBox ctkCheckableComboBox ctkCheckablePushButton "
        "ctkCollapsibleButton ctkCollapsibleGroupBox ctkColorPickerButton ctkComboBox ctkCoordinatesWidget "
        "ctkCrosshairLabel ctkDirectoryButton ctkDoubleRangeSlider ctkDoubleSlider ctkDoubleSpinBox "
        "ctkDynamicSpacer ctkExpandButton ctkExpandableWidget ctkFittedTextBrowser ctkFontButton "
        "ctkLanguageComboBox ctkMaterialPropertyPreviewLabel ctkMaterialPropertyWidget ctkMatrixWidget "
        "ctkMenuButton ctkModalityWidget ctkPathLineEdit ctkPathListButtonsWidget ctkPathListWidget "
        "ctkPopupWidget ctkPushButton ctkRangeSlider ctkRangeWidget ctkSearchBox ctkSettingsDialog "
        "ctkSettingsPanel ctkSliderWidget ctkSplitter ctkThumbnailLabel ctkTransferFunctionView "
        "ctkTreeComboBox ctkWorkflowButtonBoxWidget ctkWorkflowWidgetStep "
    ),
    "Libs/Visualization/VTK/Widgets/Plugins/ctkVTKWidgetsPlugins.h": (
        "ctkVTKChartView ctkVTKDataSetArrayComboBox ctkVTKMagnifyView ctkVTKPropertyWidget ctkVTKRenderView "
        "ctkVTKScalarBarWidget ctkVTKScalarsToColorsView ctkVTKScalarsToColorsWidget ctkVTKSliceView "
        "ctkVTKSurfaceMaterialPropertyWidget ctkVTKTextPropertyWidget ctkVTKThresholdWidget "
        "ctkVTKVolumePropertyWidget "
    ),
    "Libs/DICOM/Widgets/Plugins/ctkDICOMWidgetsPlugins.h": (
        "ctkDICOMJobListWidget ctkDICOMPatientView ctkDICOMQueryRetrieveWidget ctkDICOMSeriesTableView "
        "ctkDICOMServerNodeWidget2 ctkDICOMStudyListView ctkDICOMTableManager ctkDICOMTableView "
        "ctkDICOMVisualBrowserWidget "
    ),
    "Libs/Scripting/Python/Widgets/Plugins/ctkScriptingPythonWidgetsPlugins.h": ("ctkPythonConsole "),
}
PLUGINS = {name: path for path, names in (SLICER | CTK).items() for name in names.split()}
"""The file that registers its plug-in, by class."""


@cache
def of_qt() -> frozenset[str]:
    """Classes that Qt's loader makes without any plug-in."""
    from PySide6 import QtUiTools

    return frozenset(QtUiTools.QUiLoader().availableWidgets())


def has_plugin(name: str) -> bool:
    return name in PLUGINS or name in of_qt()
