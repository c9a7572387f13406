/* cmd_check.c - mllama check DIR: every defect of a model directory, one line each. */
#include "jsonout.h"
#include "tool.h"

#include <stdio.h>

struct report {
    bool json;
    size_t n;
    struct jw findings;
};

static void on_finding(void *user, enum mll_status code, const char *message)
{
    struct report *report = user;
    if (code == MLL_OK) {
        tool_note("%s", message);
        return;
    }
    report->n++;
    if (!report->json) {
        printf("%s: %s\n", mll_status_name(code), message);
        return;
    }
    jw_object(&report->findings, NULL);
    jw_string(&report->findings, "code", mll_status_name(code));
    jw_string(&report->findings, "message", message);
    jw_end(&report->findings, '}');
}

int cmd_check(const struct args *args)
{
    if (args->n_operands > 1)
        return tool_usage("check takes one DIR, %zu given", args->n_operands);
    struct mll_error err;
    struct args with_model = *args;
    if (args->n_operands == 1)
        with_model.model = args->operands[0];
    struct tool_model model;
    if (model_resolve(&model, &with_model, &err) != MLL_OK)
        return tool_fail(&err);

    struct report report = {.json = args->json};
    if (args->json) {
        jw_object(&report.findings, NULL);
        jw_array(&report.findings, "findings");
    }
    enum mll_status status = mll_check(model.path, args->deep, on_finding, &report, &err);
    if (args->json) {
        if (status != MLL_OK && report.n == 0)
            on_finding(&report, status, err.message);
        jw_end(&report.findings, ']');
        jw_string(&report.findings, "status", mll_status_name(status));
        jw_end(&report.findings, '}');
        jw_newline(&report.findings);
        fwrite(report.findings.data, 1, report.findings.n, stdout);
        jw_free(&report.findings);
    } else if (status == MLL_OK) {
        printf("%s: no defects\n", model.path);
    } else if (report.n == 0) {
        tool_fail(&err);
    }
    model_free(&model);
    return mll_status_exit_code(status);
}
