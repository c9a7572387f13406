# Writes version.h at build time, so that the commit shown by `mllama info` is the one built.
# Run with -DSOURCE=dir -DOUT=file -DVERSION=x.y.z.
cmake_policy(VERSION 3.25)
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=10 --exclude=*
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUT} CONTENT
"#define MLL_VERSION \"@VERSION@\"
#define MLL_COMMIT \"@commit@\"
" @ONLY)
