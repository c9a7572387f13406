/* test_normalise.c - dates, amounts, quantities and names in the forms that receipts print. */
#include "normalise.h"

#include <criterion/criterion.h>
#include <string.h>

struct row {
    const char *text, *want; /* want NULL: refused */
};

Test(normalise, dates_of_every_format_become_iso_or_nothing)
{
    static const struct row rows[] = {
        {"2024-03-31", "2024-03-31"},
        {"2024/3/1", "2024-03-01"},
        {"20240331", "2024-03-31"},
        {"31/03/2024", "2024-03-31"},
        {"31.3.24", "2024-03-31"},
        {"31-12-69", "2069-12-31"},
        {"31-12-70", "1970-12-31"},
        {"03/31/2024", "2024-03-31"},
        {"05/05/2024", "2024-05-05"},
        {"31 Mar 2024", "2024-03-31"},
        {"1st March 2024", "2024-03-01"},
        {"31-MAR-24", "2024-03-31"},
        {"Mar 31, 2024", "2024-03-31"},
        {"March 3rd, 2024", "2024-03-03"},
        {"Sun 31 Mar 2024", "2024-03-31"},
        {"Sept 9 2021", "2021-09-09"},
        {"2024-03-31 14:33", "2024-03-31"},
        {"2024-03-31T14:33:05Z", "2024-03-31"},
        {"31/03/2024 2:33 PM", "2024-03-31"},
        {"2024-02-29", "2024-02-29"},
        {"2000-02-29", "2000-02-29"},
        {"1900-02-29", NULL},
        {"2023-02-29", NULL},
        {"2024-04-31", NULL},
        {"2024-13-01", NULL},
        {"2024-00-10", NULL},
        {"2024-10-00", NULL},
        {"1899-01-01", NULL},
        {"03/04/2024", NULL},
        {"2024-03", NULL},
        {"March 2024", NULL},
        {"today", NULL},
        {"", NULL},
        {"2024-03-31 and 2024-04-01", NULL},
        {"2024-03-31 order 77", NULL},
        {"123456789012345678901234567890", NULL},
        {"32/01/2024", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char out[11] = "untouched";
        bool ok = nrm_date(out, rows[i].text, NRM_DATE_UNKNOWN);
        cr_expect(ok == (rows[i].want != NULL), "'%s' %s", rows[i].text, ok ? out : "refused");
        if (ok && rows[i].want)
            cr_expect_str_eq(out, rows[i].want, "'%s' gave %s", rows[i].text, out);
    }
}

Test(normalise, an_ambiguous_date_follows_the_stated_order_only)
{
    char out[11];
    cr_expect_not(nrm_date(out, "03/04/24", NRM_DATE_UNKNOWN));
    cr_assert(nrm_date(out, "03/04/24", NRM_DATE_DMY));
    cr_expect_str_eq(out, "2024-04-03");
    cr_assert(nrm_date(out, "03/04/24", NRM_DATE_MDY));
    cr_expect_str_eq(out, "2024-03-04");
    /* an order does not override the calendar */
    cr_assert(nrm_date(out, "31/03/2024", NRM_DATE_MDY));
    cr_expect_str_eq(out, "2024-03-31");
}

Test(normalise, amounts_have_two_decimals_or_are_refused)
{
    static const struct row rows[] = {
        {"12.34", "12.34"},
        {"12", "12.00"},
        {"12.5", "12.50"},
        {"0.05", "0.05"},
        {"007.10", "7.10"},
        {"$12.34", "12.34"},
        {"RM 12.34", "12.34"},
        {"Rs.500", "500.00"},
        {"12.34 AUD", "12.34"},
        {"\u20ac12,34", "12.34"},
        {"1,234.56", "1234.56"},
        {"1.234,56", "1234.56"},
        {"1 234,56", "1234.56"},
        {"1'234.50", "1234.50"},
        {"1\u00a0234.50", "1234.50"},
        {"1,234,567.00", "1234567.00"},
        {"1,234", "1234.00"},
        {"1.234.567", "1234567.00"},
        {"-12.34", "-12.34"},
        {"\u221212.34", "-12.34"},
        {"12.34-", "-12.34"},
        {"(12.34)", "-12.34"},
        {"-$3.00", "-3.00"},
        {"12.34 (GST incl)", "12.34"},
        {"TOTAL: 12.34", "12.34"},
        {"1.234", NULL},
        {"12.345", NULL},
        {"12.3456", NULL},
        {"0,123", NULL},
        {"1,23,456.00", NULL},
        {"12,3456.00", NULL},
        {".50", NULL},
        {"12.34 13.00", NULL},
        {"12-15", NULL},
        {"1e5", NULL},
        {"12.34)", NULL},
        {"free", NULL},
        {"", NULL},
        {"1234567890123", NULL},
        {"99999999999999999999999999999999999999999999", NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char out[NRM_AMOUNT_SIZE] = "untouched";
        bool ok = nrm_amount(out, rows[i].text);
        cr_expect(ok == (rows[i].want != NULL), "'%s' %s", rows[i].text, ok ? out : "refused");
        if (ok && rows[i].want)
            cr_expect_str_eq(out, rows[i].want, "'%s' gave %s", rows[i].text, out);
    }
    cr_expect_eq(nrm_amount_cents("-12.34"), -1234);
}

Test(normalise, quantities)
{
    static const struct row rows[] = {
        {"2", "2"},         {"2x", "2"},     {"x 2", "2"}, {"02", "2"},         {"2.0", "2"},
        {"0,534", "0.534"}, {"0.50", "0.5"}, {"", NULL},   {"two", NULL},       {"2 kg", NULL},
        {"2 3", NULL},      {"-1", NULL},    {"1.", NULL}, {"1234567890", NULL}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char out[NRM_AMOUNT_SIZE] = "untouched";
        bool ok = nrm_quantity(out, rows[i].text);
        cr_expect(ok == (rows[i].want != NULL), "'%s' %s", rows[i].text, ok ? out : "refused");
        if (ok && rows[i].want)
            cr_expect_str_eq(out, rows[i].want, "'%s' gave %s", rows[i].text, out);
    }
}

Test(normalise, names_lose_control_characters_and_double_spaces)
{
    char text[] = "  A\n\tB   C\x01 ";
    nrm_text(text);
    cr_expect_str_eq(text, "A B C");
    char empty[] = " \n";
    nrm_text(empty);
    cr_expect_str_eq(empty, "");
}
