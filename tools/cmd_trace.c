/* cmd_trace.c */
#include "tool.h"

int cmd_trace(const struct args *args)
{
    (void)args;
    return tool_usage("trace: soon");
}
