/* cmd_eval.c */
#include "tool.h"

int cmd_eval(const struct args *args)
{
    (void)args;
    return tool_usage("eval: soon");
}
