# Stands for a Slicer build tree: what an extension asks of Slicer is written down, a line each, and not built.
#
# ${CMAKE_BINARY_DIR}/calls.txt: NAME|FOLDER|KEY|VALUE;VALUE…
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/GenerateConfig.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/CPack.cmake")
file(WRITE "${CMAKE_BINARY_DIR}/calls.txt" "")

function(write_down name key)
  file(APPEND "${CMAKE_BINARY_DIR}/calls.txt" "${name}|${CMAKE_CURRENT_SOURCE_DIR}|${key}|${ARGN}\n")
endfunction()
