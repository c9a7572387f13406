/* cmd_extract.c */
#include "tool.h"

int cmd_extract(const struct args *args)
{
    (void)args;
    return tool_usage("extract: soon");
}
