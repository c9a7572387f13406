/* cmd_tokenize.c */
#include "tool.h"

int cmd_tokenize(const struct args *args)
{
    (void)args;
    return tool_usage("tokenize: soon");
}
