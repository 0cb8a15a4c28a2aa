# The macros that an extension of scripted modules calls, with the arguments Slicer's take; others are refused.
if(NOT DEFINED PROJECT_NAME OR PROJECT_NAME MATCHES "^(Slicer|Project)?$")
  message(FATAL_ERROR "Call project(NAME) before include(\${Slicer_USE_FILE}).")
endif()
include(CTest) # BUILD_TESTING, on by default

macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(CALLED "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(CALLED_UNPARSED_ARGUMENTS OR NOT CALLED_NAME)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: '${ARGN}'")
  endif()
  foreach(key NAME SCRIPTS RESOURCES WITH_GENERIC_TESTS WITH_SUBDIR)
    write_down(slicerMacroBuildScriptedModule ${key} ${CALLED_${key}})
  endforeach()
endmacro()

macro(slicer_add_python_unittest)
  cmake_parse_arguments(UNITTEST "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
  if(UNITTEST_UNPARSED_ARGUMENTS OR NOT UNITTEST_SCRIPT)
    message(FATAL_ERROR "slicer_add_python_unittest: '${ARGN}'")
  endif()
  write_down(slicer_add_python_unittest SCRIPT ${UNITTEST_SCRIPT})
endmacro()
