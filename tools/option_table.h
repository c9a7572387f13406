/* option_table.h - the rows behind options.h. */
#ifndef MLL_OPTION_TABLE_H
#define MLL_OPTION_TABLE_H

#include "options.h"

enum option_kind {
    OPT_FLAG,   /* bool */
    OPT_STRING, /* const char * */
    OPT_CHOICE, /* const char *, one of the words of arg */
    OPT_LIST,   /* struct string_list, may be repeated */
    OPT_INT,    /* int in min..max */
    OPT_REAL,   /* double in min..max */
    OPT_SEED,   /* uint64_t */
    OPT_BYTES,  /* uint64_t with K, M, G or T behind it */
    OPT_DEVICE, /* const char *: auto, cpu, cuda or cuda:N */
};

struct option_row {
    const char *name;
    char letter; /* 0: none */
    enum option_kind kind;
    size_t offset;     /* of its member in struct args */
    unsigned commands; /* bit per command_id */
    const char *arg;   /* how help shows the value; NULL for flags */
    const char *help;
    double min, max;
};

extern const struct option_row option_table[];
extern const size_t option_count;

#endif
