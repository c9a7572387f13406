/* cmd_run.c */
#include "tool.h"

int cmd_run(const struct args *args)
{
    (void)args;
    return tool_usage("run: soon");
}
